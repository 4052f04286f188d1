"""Circuits: what a model does if only some of its nodes compute, and the others have the values of another prompt."""

import torch

from gatebook.routing.edges import Asked, Parts, Run
from gatebook.routing.node_list import ATTENTION, EXPERT, REST, Nodes


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
        keep = of_kind(circuits, nodes, ATTENTION, layer)[:, 0].repeat_interleave(rows)
        added = torch.where(keep[:, None, None], base.attention(layer)[row], other.attention(layer)[row])
        if layer and keep.any():  # the first one reads the embedding alone
            added[keep] = parts.middle(layer, states[keep]) - states[keep]
        states = states + added
        if layer in parts.blocks:
            states = _after(parts, base, other, circuits, layer, states, row)
    return parts.difference(states, asked.rows(row)).view(count, rows)


def _after(
    parts: Parts, base: Run, other: Run, circuits: torch.Tensor, layer: int, states: torch.Tensor, row: torch.Tensor
) -> torch.Tensor:
    """What a layer with experts hands on: (circuit and row, position, hidden), as `states` after its attention."""
    nodes, rows = parts.nodes, len(base.token_ids)
    keep, rest = (of_kind(circuits, nodes, kind, layer) for kind in (EXPERT, REST))
    outside = _contributed(~keep, other, layer)
    after = states + outside
    if rest.shape[1]:
        after = after + other.rests[layer][row]
    runs = keep.any(dim=1) | rest.any(dim=1)
    if not layer:  # with attention, it reads what it reads in the base
        known = of_kind(circuits, nodes, ATTENTION, layer)[:, 0] & ~rest.any(dim=1)
        after = after + torch.where(known.repeat_interleave(rows)[:, None, None], _contributed(keep, base, layer), 0)
        runs = runs & ~known
    runs = runs.repeat_interleave(rows)
    if runs.any():
        some = states[runs]
        found = parts.kept(layer, some, keep.repeat_interleave(rows, dim=0)[runs], outside[runs])
        if rest.shape[1]:
            own = rest[:, 0].repeat_interleave(rows)[runs, None, None]
            found = found + torch.where(own, 0, other.rests[layer][row][runs] - parts.rest(layer, some))
        after[runs] = found
    return after


def _contributed(chosen: torch.Tensor, run: Run, layer: int) -> torch.Tensor:
    """What some experts of a layer, (circuit, expert) bool, add in a run: (circuit and row, position, hidden)."""
    values = run.contributions[layer]
    hit = chosen[:, run.selected[layer]].to(values.dtype)  # (circuit, row, position, rank)
    return torch.einsum("cptr,ptrh->cpth", hit, values).flatten(0, 1)


def of_kind(circuits: torch.Tensor, nodes: Nodes, kind: str, layer: int) -> torch.Tensor:
    """The part of circuits (circuit, node) that is of one kind and layer: (circuit, nodes of it)."""
    return circuits[:, torch.as_tensor((nodes.kind == kind) & (nodes.layer == layer), device=circuits.device)]
