"""Circuits: what a model does if only some of its nodes compute, and the others have the values of another prompt."""

import torch

from gatebook.routing.edges import ATTENTION, EXPERT, REST, Asked, Nodes, Parts, Run


@torch.no_grad()
def behaviour(
    parts: Parts, base: Run, other: Run, asked: Asked, circuits: torch.Tensor, tokens_per_batch: int
) -> torch.Tensor:
    """What is read at the output if the nodes outside a circuit add what they add in the other prompt.

    Parameters
    ----------
    parts
        The model.
    base, other
        What it does on both prompts of every pair.
    asked
        What is read.
    circuits
        Which nodes are in each, (circuit, node) bool. The embedding and the output always are.
    tokens_per_batch
        So many run at once, at least those of one circuit. Circuits that are alike run faster together.

    Returns
    -------
    torch.Tensor
        (circuit, row) float32.
    """
    rows, positions = base.token_ids.shape
    size = max(tokens_per_batch // (rows * positions), 1)
    return torch.cat([_batch(parts, base, other, asked, each) for each in circuits.split(size)])


def _batch(parts: Parts, base: Run, other: Run, asked: Asked, circuits: torch.Tensor) -> torch.Tensor:
    nodes, (count, rows) = parts.nodes, (len(circuits), len(base.token_ids))
    row = torch.arange(rows, device=circuits.device).repeat(count)
    states = base.inputs[0][row]
    for layer in range(len(parts.layers)):
        states = _with(
            states,
            other.attention(layer)[row],
            of_kind(circuits, nodes, ATTENTION, layer)[:, 0].repeat_interleave(rows),
            lambda some, layer=layer: parts.middle(layer, some) - some,
        )
        if layer not in parts.blocks:
            continue
        keep = of_kind(circuits, nodes, EXPERT, layer)
        selected = other.selected[layer]
        outside = (~keep)[:, selected]  # (circuit, row, position, rank)
        put_in = torch.einsum("cptr,ptrh->cpth", outside.to(states.dtype), other.contributions[layer])
        put_in = put_in.flatten(0, 1)
        rest = of_kind(circuits, nodes, REST, layer)
        runs = (keep.any(dim=1) | rest.any(dim=1)).repeat_interleave(rows)
        after = states + put_in
        if rest.shape[1]:
            after = after + other.rests[layer][row]
        if runs.any():
            within = keep.repeat_interleave(rows, dim=0)[runs]
            some, added = states[runs], put_in[runs]
            found = parts.kept(layer, some, within, added)
            if rest.shape[1]:
                own = rest[:, 0].repeat_interleave(rows)[runs, None, None]
                found = found + torch.where(own, 0, other.rests[layer][row][runs] - parts.rest(layer, some))
            after[runs] = found
        states = after
    every = asked.rows(row)
    return parts.difference(states, every).view(count, rows)


def of_kind(circuits: torch.Tensor, nodes: Nodes, kind: str, layer: int) -> torch.Tensor:
    """The part of circuits (circuit, node) that is of one kind and layer: (circuit, nodes of it)."""
    return circuits[:, torch.as_tensor((nodes.kind == kind) & (nodes.layer == layer), device=circuits.device)]


def _with(states: torch.Tensor, other: torch.Tensor, keep: torch.Tensor, part) -> torch.Tensor:
    """States with what a part adds to them, or what it adds in the other prompt: (row, position, hidden)."""
    added = other.clone()
    if keep.any():
        added[keep] = part(states[keep])
    return states + added
