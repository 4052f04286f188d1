"""Edges: how much of what one part of a model adds to the residual stream reaches another part.

A model is taken apart into nodes that each add to the residual stream: the embedding; attention of each layer; what its
block adds beside its experts, such as shared ones; every expert, whose contribution is its weight times its output and
0 where it is not selected; and the output, which reads the stream at the end. A dense layer is one node, as attention.

An edge goes from a sender to a receiver after it. A prompt is run in two versions, one that is kept, the base, and one
whose values are put in. The true effect of an edge (path patching): the difference of what the sender adds in both is
added to what the receiver reads, and to nothing else; what the receiver adds then changes, and all after it is
recomputed. Attribution is its first order: the difference times the gradient at the receiver's own input, in the base,
for all edges at once in one backward pass. An expert reads what the norm before its block reads, and its weight follows
from the same reading. Attribution takes the selection of the base as given: what an expert would do in tokens that do
not select it there is not in it.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import transformers
from torch import nn

from gatebook.routing.families import routing_rule
from gatebook.routing.node_list import ATTENTION, EMBEDDING, EXPERT, OUTPUT, REST, Nodes
from gatebook.routing.patching import hooked, refusal, replaced
from gatebook.routing.routers import find_blocks, find_norm, layers_of, unsupported

ROUNDINGS = 16
"""So many roundings of the largest state a layer's output may differ from the sum of its parts."""


class _Left(Exception):
    """Raised with what a module received or returned: nothing after it needs to be computed."""


class Slots(NamedTuple):
    """Vectors of nodes at every token: values (row, position, slot, hidden), nodes (row, position, slot) int64, and
    the place of the nodes."""

    values: torch.Tensor
    nodes: torch.Tensor
    place: int


@dataclass(frozen=True)
class Run:
    """What the nodes of a model did in a run on prompts.

    token_ids (row, position); inputs: by layer what it received, of the number after the last what that one handed on,
    middles: by layer what its experts' norm received, and rests, what the block adds beside its experts, both (row,
    position, hidden); selected (row, position, rank) int64 and contributions (row, position, rank, hidden) by layer.
    """

    token_ids: torch.Tensor
    inputs: dict[int, torch.Tensor]
    middles: dict[int, torch.Tensor]
    rests: dict[int, torch.Tensor]
    selected: dict[int, torch.Tensor]
    contributions: dict[int, torch.Tensor]

    def attention(self, layer: int) -> torch.Tensor:
        """What attention of a layer added, of a dense layer all of it: (row, position, hidden)."""
        return self.middles[layer] - self.inputs[layer]

    def rows(self, rows: torch.Tensor, positions: int) -> "Run":
        """The same of some of the prompts, (row,) int64, and of the first positions."""
        parts = (self.inputs, self.middles, self.rests, self.selected, self.contributions)
        some = ({layer: each[rows, :positions] for layer, each in part.items()} for part in parts)
        return Run(self.token_ids[rows, :positions], *some)


@dataclass(frozen=True)
class Asked:
    """What is read at the output: the logit of one token minus that of another, after the last token of a prompt.

    last, right, wrong: (row,) int64.
    """

    last: torch.Tensor
    right: torch.Tensor
    wrong: torch.Tensor

    def rows(self, rows: torch.Tensor) -> "Asked":
        """The same of some of the prompts, (row,) int64."""
        return Asked(self.last[rows], self.right[rows], self.wrong[rows])


class Parts:
    """A model taken apart into nodes, each of which can be run alone."""

    def __init__(self, model: transformers.PreTrainedModel):
        """Take a model apart.

        Parameters
        ----------
        model
            With a head, in evaluation mode.

        Raises
        ------
        Problem
            If it has no head.
        """
        base = model.base_model
        if reason := refusal(model.config):
            raise unsupported(model.config, reason)
        self.model, self.layers, self.blocks = model, list(layers_of(base)), find_blocks(base)
        self.experts = routing_rule(base.config).experts
        norm = find_norm(base.config)
        self._norms = {} if norm is None else {layer: self.layers[layer].get_submodule(norm) for layer in self.blocks}
        self._arguments: dict[torch.Size, list[tuple[tuple, dict]]] = {}
        self._beside: dict[int, tuple | None] = {}
        self._with_rest = any(
            module is not block.experts and any(True for _ in module.parameters()) and not _is_router(block, module)
            for block in self.blocks.values()
            for module in block.children()
        )

    @cached_property
    def nodes(self) -> Nodes:
        """All of them."""
        found = [(EMBEDDING, -1, -1, -1)]
        for layer in range(len(self.layers)):
            found.append((ATTENTION, layer, -1, 2 * layer))
            if layer in self.blocks:
                found += [(REST, layer, -1, 2 * layer + 1)] * self._with_rest
                found += [(EXPERT, layer, expert, 2 * layer + 1) for expert in range(self.experts)]
        found.append((OUTPUT, len(self.layers), -1, 2 * len(self.layers)))
        return Nodes(*(np.array(column) for column in zip(*found, strict=True)))

    # ---------------------------------------------------------------- running parts

    def run(self, token_ids: torch.Tensor) -> Run:
        """What the nodes do in a run on prompts (row, position) int64, without gradients.

        Raises a `Problem` where no norm stands before experts, or a layer does more with what its experts return than
        add it to the residual stream.
        """
        if self.blocks.keys() - self._norms.keys():
            reason = "no norm stands before its experts, so what they read is no sum of nodes"
            raise unsupported(self.model.base_model.config, reason)
        with torch.no_grad():
            inputs = {0: self._embedded(token_ids)}
            run = Run(token_ids, inputs, {}, {}, {}, {})
            for layer in range(len(self.layers)):
                run.middles[layer] = self.middle(layer, inputs[layer])
                inputs[layer + 1] = self.through(layer, inputs[layer])
                if layer in self.blocks:
                    self._look(run, layer)
        return run

    def handed_on(self, token_ids: torch.Tensor) -> torch.Tensor:
        """What the last layer hands on in a run on prompts (row, position) int64: (row, position, hidden)."""
        states = self._embedded(token_ids)
        for layer in range(len(self.layers)):
            states = self.through(layer, states)
        return states

    def _look(self, run: Run, layer: int) -> None:
        """Complete a run by what the block of a layer did."""
        middle, seen = run.middles[layer], {}

        def handed(module, given):
            seen["selected"] = given[1].view(*middle.shape[:2], -1)

        with hooked(self.blocks[layer].experts.register_forward_pre_hook(handed)):
            after = self.after(layer, middle)
        rounding = ROUNDINGS * torch.finfo(after.dtype).eps * after.abs().amax()
        if (after - run.inputs[layer + 1]).abs().amax() > rounding:
            reason = "its layers do more with what their experts return than add it to the residual stream"
            raise unsupported(self.model.base_model.config, reason)
        run.selected[layer] = selected = seen["selected"]
        each = [self.expert(layer, middle, numbers) for numbers in selected.unbind(dim=-1)]
        run.contributions[layer] = torch.stack(each, dim=2)
        if self._with_rest:
            run.rests[layer] = self.rest(layer, middle)

    def _embedded(self, token_ids: torch.Tensor) -> torch.Tensor:
        """What the first layer receives; what all layers are called with beside it is kept for this shape.

        Layers need not run for it, unless they hand on more than states, which later ones may be called with.
        """
        arguments: list[tuple[tuple, dict]] = []
        received: list[torch.Tensor] = []

        def called(module, given, named):
            received.append(given[0] if given else named["hidden_states"])
            arguments.append((given[1:], {key: value for key, value in named.items() if key != "hidden_states"}))

        def returned(index: int) -> Callable:
            def look(module, given, output):
                self._beside[index] = output[1:] if isinstance(output, tuple) else None

            return look

        with ExitStack() as stack:
            if self._beside and not any(self._beside.values()):
                for index, layer in enumerate(self.layers):
                    stack.enter_context(replaced(layer, self._handing_on(index)))
            handles = [layer.register_forward_pre_hook(called, with_kwargs=True) for layer in self.layers]
            if not self._beside:
                handles += [layer.register_forward_hook(returned(index)) for index, layer in enumerate(self.layers)]
            stack.enter_context(hooked(*handles))
            self.model.base_model(input_ids=token_ids, use_cache=False)
        self._arguments[token_ids.shape] = arguments
        return received[0]

    def _handing_on(self, index: int, states: torch.Tensor | None = None) -> Callable:
        """In the place of a layer's forward: hands on `states`, or what it receives."""
        beside = self._beside[index]

        def forward(*given, **named):
            here = (given[0] if given else named["hidden_states"]) if states is None else states
            return here if beside is None else (here, *beside)

        return forward

    def through(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """What a layer hands on of what it receives, both (row, position, hidden)."""
        shape = states.shape[:2]
        if shape not in self._arguments:
            with torch.no_grad():
                self._embedded(torch.zeros(shape, dtype=torch.int64, device=states.device))
        given, named = self._arguments[shape][layer]
        output = self.layers[layer](states, *given, **named)
        return output[0] if isinstance(output, tuple) else output

    def middle(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """What the norm before a layer's experts receives, of what the layer does; of a dense one what it hands on."""
        if layer not in self.blocks:
            return self.through(layer, states)

        def left(module, given):
            raise _Left(given[0])

        with hooked(self._norms[layer].register_forward_pre_hook(left)):
            try:
                self.through(layer, states)
            except _Left as found:
                return found.args[0]
        raise unsupported(self.model.base_model.config, f"layer {layer} does not call the norm before its experts")

    def after(self, layer: int, middle: torch.Tensor) -> torch.Tensor:
        """What a layer hands on of what its experts' norm receives."""
        return middle + self._block(layer, middle) if layer in self.blocks else middle

    def _block(self, layer: int, middle: torch.Tensor) -> torch.Tensor:
        output = self.blocks[layer](self._norms[layer](middle))
        return (output[0] if isinstance(output, tuple) else output).view(middle.shape)

    def rest(self, layer: int, middle: torch.Tensor) -> torch.Tensor:
        """What a block adds beside its experts: (row, position, hidden)."""

        def none(module, given, output):
            return torch.zeros_like(output)

        with hooked(self.blocks[layer].experts.register_forward_hook(none)):
            return self._block(layer, middle)

    def expert(self, layer: int, middle: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """What one expert of each token adds: its weight times its output, 0 where it is not selected.

        middle (row, position, hidden), numbers (row, position) int64: (row, position, hidden).
        """
        own = numbers.reshape(-1, 1)

        def alone(module, given):
            states, selected, weights = given
            return states, own, torch.where(selected == own, weights, 0).sum(dim=-1, keepdim=True)

        def left(module, given, output):
            raise _Left(output)

        experts = self.blocks[layer].experts
        with hooked(experts.register_forward_pre_hook(alone), experts.register_forward_hook(left)):
            try:
                self._block(layer, middle)
            except _Left as found:
                return found.args[0].view(middle.shape)
        raise unsupported(self.model.base_model.config, f"the block of layer {layer} does not call its experts")

    def kept(self, layer: int, middle: torch.Tensor, keep: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """What a layer hands on if only some experts contribute, and something else is added.

        keep (row, expert) bool, added (row, position, hidden).
        """

        def masked(module, given):
            states, selected, weights = given
            chosen = keep.repeat_interleave(middle.shape[1], dim=0).gather(1, selected)
            return states, selected, torch.where(chosen, weights, 0)

        with hooked(self.blocks[layer].experts.register_forward_pre_hook(masked)):
            return self.after(layer, middle) + added

    def difference(self, states: torch.Tensor, asked: Asked) -> torch.Tensor:
        """What is read at the output of what the last layer hands on (row, position, hidden): (row,) float32."""
        rows = torch.arange(len(states), device=states.device)
        ends = states[rows, asked.last][:, None]

        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                stack.enter_context(replaced(layer, self._handing_on(index, ends)))
            ids = torch.zeros(len(ends), 1, dtype=torch.int64, device=states.device)
            logits = self.model(input_ids=ids, use_cache=False).logits[:, 0].float()
        return logits[rows, asked.right] - logits[rows, asked.wrong]

    def resumed(self, layer: int, states: torch.Tensor, asked: Asked) -> torch.Tensor:
        """What is read at the output if a layer receives `states` (row, position, hidden): (row,) float32."""
        for number in range(layer, len(self.layers)):
            states = self.through(number, states)
        return self.difference(states, asked)

    # ---------------------------------------------------------------- attribution

    def gradients(self, run: Run, asked: Asked) -> tuple[dict[int, torch.Tensor], list[Slots]]:
        """The gradient of what is read, at the stream and at the own input of every receiver, in one backward pass.

        Returns
        -------
        stream : dict
            By place, the gradient at what nodes of that place add: (row, position, hidden).
        receivers : list of Slots
            The gradient at the input of each receiver, without what reaches the output past it.
        """
        nodes, depth = self.nodes, len(self.layers)
        leaf = run.inputs[depth].detach().requires_grad_()
        with torch.enable_grad():
            (stream,) = torch.autograd.grad(self.difference(leaf, asked).sum(), leaf)
        found, receivers = {}, [self._one(nodes, stream, OUTPUT, depth)]
        for layer in reversed(range(depth)):
            if layer in self.blocks:
                found[2 * layer + 1] = stream
                middle = run.middles[layer]
                each = [
                    _pulled(lambda one, numbers=numbers, layer=layer: self.expert(layer, one, numbers), middle, stream)
                    for numbers in run.selected[layer].unbind(dim=-1)
                ]
                slots = torch.stack(each, dim=2)
                receivers.append(Slots(slots, self._experts(nodes, run, layer), 2 * layer + 1))
                beside = slots.sum(dim=2)
                if self._with_rest:
                    one = _pulled(lambda one, layer=layer: self.rest(layer, one), middle, stream)
                    receivers.append(self._one(nodes, one, REST, layer))
                    beside = beside + one
                stream = stream + beside
            found[2 * layer] = stream
            before = _pulled(lambda one, layer=layer: self.middle(layer, one), run.inputs[layer], stream)
            receivers.append(self._one(nodes, before - stream, ATTENTION, layer))
            stream = before
        return found | {-1: stream}, receivers

    def senders(self, base: Run, other: Run) -> list[Slots]:
        """What each node adds in the other run minus what it adds in the base.

        A difference of experts stands in two slots for every rank, what is put in and, negative, what is taken away.
        """
        nodes = self.nodes
        found = [self._one(nodes, other.inputs[0] - base.inputs[0], EMBEDDING, -1)]
        for layer in range(len(self.layers)):
            found.append(self._one(nodes, other.attention(layer) - base.attention(layer), ATTENTION, layer))
            if layer in self.blocks:
                if self._with_rest:
                    found.append(self._one(nodes, other.rests[layer] - base.rests[layer], REST, layer))
                values = torch.cat([other.contributions[layer], -base.contributions[layer]], dim=2)
                numbers = torch.cat([self._experts(nodes, run, layer) for run in (other, base)], dim=2)
                found.append(Slots(values, numbers, 2 * layer + 1))
        return found

    def _one(self, nodes: Nodes, values: torch.Tensor, kind: str, layer: int) -> Slots:
        number = nodes.number(kind, layer)
        numbers = torch.full((*values.shape[:2], 1), number, device=values.device)
        return Slots(values[:, :, None], numbers, int(nodes.place[number]))

    def _experts(self, nodes: Nodes, run: Run, layer: int) -> torch.Tensor:
        return run.selected[layer] + nodes.number(EXPERT, layer, 0)

    def node_scores(self, stream: dict[int, torch.Tensor], senders: list[Slots]) -> torch.Tensor:
        """The attribution of each node: what it adds more, times the gradient there. (row, node) float32."""
        count = len(self.nodes.kind)
        found = torch.zeros(len(senders[0].values), count, device=senders[0].values.device)
        for sender in senders:
            dot = torch.einsum("ptsh,pth->pts", sender.values.float(), stream[sender.place].float())
            found.scatter_add_(1, sender.nodes.flatten(1), dot.flatten(1))
        return found

    def edge_scores(self, senders: list[Slots], receivers: list[Slots]) -> torch.Tensor:
        """The attribution of each edge: (row, sender, receiver) float32, 0 where there is none."""
        rows, count = len(senders[0].values), len(self.nodes.kind)
        found = torch.zeros(rows, count * count, device=senders[0].values.device)
        for receiver in receivers:
            for sender in (one for one in senders if one.place < receiver.place):
                dot = torch.einsum("ptsh,ptrh->ptsr", sender.values.float(), receiver.values.float())
                cell = sender.nodes[..., None] * count + receiver.nodes[:, :, None]
                found.scatter_add_(1, cell.flatten(1), dot.flatten(1))
        return found.view(rows, count, count)

    # ---------------------------------------------------------------- path patching

    @torch.no_grad()
    def patch_paths(
        self, run: Run, senders: list[Slots], asked: Asked, edges: list[tuple[int, int]], rows_per_batch: int
    ) -> torch.Tensor:
        """What is read at the output if an edge carries the sender's difference.

        Parameters
        ----------
        run
            The base.
        senders
            What each node adds more, see `senders`.
        asked
            What is read.
        edges
            The sender and the receiver of each, as numbers of nodes.
        rows_per_batch
            So many prompts run at once, at least those of one edge.

        Returns
        -------
        torch.Tensor
            (row, edge) float32.
        """
        nodes, found = self.nodes, torch.zeros(len(run.token_ids), len(edges), device=run.token_ids.device)
        groups: dict[int, list[int]] = {}
        for place, (_, receiver) in enumerate(edges):
            groups.setdefault(int(nodes.place[receiver]) * 2 + (nodes.kind[receiver] == REST), []).append(place)
        size = max(rows_per_batch // len(run.token_ids), 1)
        for group in groups.values():
            for start in range(0, len(group), size):
                part = group[start : start + size]
                part_edges = [edges[place] for place in part]
                given = torch.cat([_of_node(senders, sender) for sender, _ in part_edges])
                states, layer = self._received(run, nodes, [receiver for _, receiver in part_edges], given)
                every = asked.rows(torch.arange(len(run.token_ids), device=given.device).repeat(len(part)))
                found[:, part] = self.resumed(layer, states, every).view(len(part), -1).T
        return found

    def _received(self, run: Run, nodes: Nodes, receivers: list[int], given: torch.Tensor) -> tuple[torch.Tensor, int]:
        """What a layer receives, and which, if receivers of one place read `given` (row, position, hidden) more."""
        copies, (kind, layer) = len(receivers), (nodes.kind[receivers[0]], int(nodes.layer[receivers[0]]))

        def stacked(states: torch.Tensor) -> torch.Tensor:
            return states.repeat(copies, *[1] * (states.dim() - 1))

        if kind == OUTPUT:
            return stacked(run.inputs[layer]) + given, layer
        if kind == ATTENTION:
            states, middle = stacked(run.inputs[layer]), stacked(run.middles[layer])
            more = self.middle(layer, states + given) - self.middle(layer, states) - given
            return self.after(layer, middle + more), layer + 1
        middle = stacked(run.middles[layer])
        if kind == REST:
            more = self.rest(layer, middle + given) - self.rest(layer, middle)
        else:
            numbers = torch.tensor(nodes.expert[receivers], device=given.device)
            numbers = numbers.repeat_interleave(len(run.token_ids))[:, None].expand(middle.shape[:2])
            more = self.expert(layer, middle + given, numbers) - self.expert(layer, middle, numbers)
        return stacked(run.inputs[layer + 1]) + more, layer + 1


def _is_router(block: nn.Module, module: nn.Module) -> bool:
    return module is getattr(block, "router", None) or module is getattr(block, "gate", None)


def _of_node(senders: list[Slots], node: int) -> torch.Tensor:
    """What one node adds more: (row, position, hidden)."""
    parts = [torch.where((one.nodes == node)[..., None], one.values, 0).sum(dim=2) for one in senders]
    return sum(parts[1:], parts[0])


def _pulled(part: Callable, at: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
    """The gradient at the input of a part, of the gradient at its output."""
    leaf = at.detach().requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(part(leaf), leaf, stream, allow_unused=True)
    return torch.zeros_like(at) if found is None else found
