"""Nodes: what experts and attention add to the residual stream, taken from one prompt and put into another.

A node is an expert of a layer, whose value at a token is its routing weight times its output, 0 where the token does
not select it; or the attention of a layer, whose value is what that module returns. Prompts run in pairs, a clean and a
corrupt one of the same length, as the windows of one run: first all clean ones, then all corrupt ones. To patch is to
run a window with the values of nodes from another window, its partner as a rule: clean values in corrupt prompts
(denoising) and corrupt values in clean prompts (noising) are rows of one batch.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import torch
import transformers
from torch import nn

from gatebook.routing.families import routing_rule
from gatebook.routing.patching import CleanRun, handing, hooked, returning
from gatebook.routing.routers import find_blocks, layers_of


class Gradients(NamedTuple):
    """Derivatives of each window's difference by what nodes add, by layer: (window, position, hidden) each."""

    experts: dict[int, torch.Tensor]
    attention: dict[int, torch.Tensor]


def attention_of(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """The attention modules of a base model by layer; layers that mix tokens in another way have none."""
    found = {}
    for index, layer in enumerate(layers_of(model)):
        known = [module for module in layer.modules() if type(module).__name__.endswith("Attention")]
        if known:
            found[index] = known[0]
    return found


@contextmanager
def experts_replaced(
    model: transformers.PreTrainedModel, layer: int, taken: torch.Tensor, value: torch.Tensor
) -> Iterator[None]:
    """Within it some experts of a layer add nothing of their own, and something is added in their place.

    Parameters
    ----------
    model
        With or without a head.
    layer
        Number of the layer.
    taken
        Whose own contributions are left out: (row, position or 1, expert) bool.
    value
        What is added: (row, position, hidden), such as of `PairRun.contributed`.
    """

    def decided(logits, weights, selected):
        every = taken.expand(-1, value.shape[1], -1).flatten(0, 1).to(selected.device)
        return weights.masked_fill(every.gather(-1, selected), 0), selected

    with handing(model, layer, decided, lambda weights, selected: value):
        yield


@contextmanager
def attention_replaced(
    model: transformers.PreTrainedModel, layer: int, taken: torch.Tensor, value: torch.Tensor
) -> Iterator[None]:
    """Within it the attention of a layer returns something else in some rows, or positions of them.

    taken: (row, position or 1) bool; value: (row, position, hidden).
    """

    def replaced(states):
        return torch.where(taken.to(states.device)[..., None], value.to(states), states)

    with returning(attention_of(model.base_model)[layer], replaced):
        yield


@contextmanager
def handed(
    model: transformers.PreTrainedModel,
    layer: int,
    *,
    states: torch.Tensor | None = None,
    selected: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> Iterator[None]:
    """Within it the experts of a layer are handed other states, other experts, or other weights than their own.

    Parameters
    ----------
    model
        With or without a head.
    layer
        Number of the layer.
    states
        What each expert receives, (row, position, hidden); None: their own.
    selected, weights
        Numbers of experts and their routing weights, (row, position, rank); None: their own.

    Yields
    ------
    None
    """

    def replaced(module, given):
        wanted = zip(given, (states, selected, weights), strict=True)
        return tuple(own if other is None else other.to(own).view(own.shape) for own, other in wanted)

    with hooked(find_blocks(model.base_model)[layer].experts.register_forward_pre_hook(replaced)):
        yield


class PairRun(CleanRun):
    """A model that ran on pairs of prompts, and runs again with nodes of one prompt in another.

    windows: 2 P for P pairs, the clean prompts and then the corrupt ones; partner (window,) int64: the other prompt of
    the pair; ends (window,) int64: its last position; inside (window, position) bool: up to there; answers (window, 2)
    int64: the right and the wrong token of the pair, in this order in both prompts; attention: by layer that has it,
    what it returned, (window, position, hidden); layers: those with experts; experts: how many each has. What
    `CleanRun` has besides, but no losses.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        ids: torch.Tensor,
        lengths: torch.Tensor,
        right: torch.Tensor,
        wrong: torch.Tensor,
    ):
        """Run a model.

        Parameters
        ----------
        model
            With a head, in evaluation mode.
        ids
            Token ids, (prompt, pair, position) int64, padded at the end.
        lengths
            Tokens of both prompts of a pair, (pair,) int64.
        right, wrong
            The answers after the clean and after the corrupt prompt, (pair,) int64.

        Raises
        ------
        Problem
            If its blocks do not hand their experts what a change acts on.
        """
        device, pairs = model.device, ids.shape[1]
        self.windows = 2 * pairs
        self.partner = (torch.arange(self.windows, device=device) + pairs) % self.windows
        self.ends = (lengths.repeat(2) - 1).to(device)
        self.answers = torch.stack([right, wrong], dim=-1).repeat(2, 1).to(device)
        self.inside = torch.arange(ids.shape[2], device=device) <= self.ends[:, None]
        self.experts = routing_rule(model.base_model.config).experts
        self.attention: dict[int, torch.Tensor] = {}
        self._added: dict[int, torch.Tensor] = {}
        with ExitStack() as stack:
            for layer, module in attention_of(model.base_model).items():
                stack.enter_context(returning(module, self._kept(layer)))
            super().__init__(model, ids.flatten(0, 1).to(device), self.ends + 1, loss=False)
        self.layers = sorted(self.selected)

    def _kept(self, layer: int) -> Callable:
        def keep(states):
            self.attention[layer] = states
            return states

        return keep

    def states(self, layer: int) -> torch.Tensor:
        """What the experts of a layer were handed, (window, position, hidden)."""
        return self._states[layer].view(*self.token_ids.shape, -1)

    @torch.inference_mode()
    def differences(
        self,
        layer: int = 0,
        windows: torch.Tensor | None = None,
        change: AbstractContextManager | None = None,
        states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The logit of the right answer minus that of the wrong one at the end of windows: (row,) float32.

        Parameters
        ----------
        layer
            The first layer that runs.
        windows
            Which window each row is, (row,) int64; None: all.
        change
            Within which the layers run; None for no change.
        states
            What the layer receives, (row, position, hidden); None for what it received.
        """
        rows = torch.arange(self.windows, device=self.ends.device) if windows is None else windows
        received = self.inputs[layer][rows] if states is None else states
        with self._resumed(layer, received), change or nullcontext():
            return self._differences(rows)

    def _differences(self, windows: torch.Tensor) -> torch.Tensor:
        """What the model as it is now says of windows: (row,) float32."""
        ids, ends, answers = (each[windows].clone() for each in (self.token_ids, self.ends, self.answers))
        rows = torch.arange(len(ids), device=ids.device)
        states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state.to(ids.device)

        def score(logits: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
            right, wrong = logits.gather(-1, answers[row]).unbind(dim=-1)
            return right - wrong

        return self._scored(states[rows, ends], rows, score)

    @torch.inference_mode()
    def contributed(self, layer: int, windows: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """What some experts of a layer add together in windows: (row, position, hidden).

        windows: (row,) int64; taken: which experts, (row, position or 1, expert) bool.
        """
        hit = taken.expand(-1, self.token_ids.shape[1], -1).gather(-1, self.selected[layer][windows])
        return (self.added(layer)[windows] * hit[..., None]).sum(dim=2)

    def added(self, layer: int) -> torch.Tensor:
        """The `contributions` of a layer; those of the layer that was asked for last are kept."""
        if layer not in self._added:
            self._added = {layer: self.contributions(layer).to(self.inputs[layer].dtype)}
        return self._added[layer]

    def selects(self, layer: int) -> torch.Tensor:
        """Which experts of a layer tokens of a window select, (window, expert) bool."""
        return self._by_expert(layer, self.inside[..., None].expand(self.selected[layer].shape)) > 0

    def _by_expert(self, layer: int, values: torch.Tensor) -> torch.Tensor:
        """Sums over tokens and ranks of values (window, position, rank) by expert: (window, expert) float32."""
        found = torch.zeros(self.windows, self.experts, device=values.device)
        return found.scatter_add(1, self.selected[layer].flatten(1), values.flatten(1).float())

    def gradients(self, share: float = 0.0) -> Gradients:
        """Derivatives of each window's difference by what experts and attention add.

        share: how far the embedding of a window is moved towards that of its partner, 0 to 1.
        """
        base, partner = self.model.base_model, self.partner.clone()

        def moved(states):
            return states + share * (states[partner] - states) if share else states

        like = self.inputs[self.layers[0]]
        zeros = {
            (kind, layer): torch.zeros(like.shape, dtype=like.dtype, device=like.device, requires_grad=True)
            for kind, layers in (("experts", self.layers), ("attention", self.attention))
            for layer in layers
        }
        modules = {("experts", layer): block.experts for layer, block in find_blocks(base).items()}
        modules |= {("attention", layer): module for layer, module in attention_of(base).items()}
        with torch.enable_grad(), ExitStack() as stack:
            stack.enter_context(returning(base.get_input_embeddings(), moved))
            for key, zero in zeros.items():
                stack.enter_context(returning(modules[key], lambda states, zero=zero: states + zero.view(states.shape)))
            total = self._differences(torch.arange(self.windows, device=partner.device)).sum()
            found = torch.autograd.grad(total, list(zeros.values()))
        known = dict(zip(zeros, found, strict=True))
        return Gradients(
            *({layer: known[key, layer] for key, layer in known if key == kind} for kind in ("experts", "attention"))
        )

    @torch.inference_mode()
    def attributed(self, gradients: Gradients) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """What putting in the partner's value of each node would do to the difference of a window, were it linear.

        Returns
        -------
        experts, attention : dict[int, torch.Tensor]
            By layer, the change of value times the gradient: (window, expert) and (window,) float32.
        """
        experts, attention = {}, {}
        for layer in self.layers:
            gradient, added = gradients.experts[layer], self.added(layer)
            there = torch.einsum("wprh,wph->wpr", added, gradient[self.partner]) * self.inside[..., None]
            here = torch.einsum("wprh,wph->wpr", added, gradient) * self.inside[..., None]
            experts[layer] = self._by_expert(layer, there)[self.partner] - self._by_expert(layer, here)
        for layer, states in self.attention.items():
            apart = (states[self.partner] - states).float() * gradients.attention[layer].float()
            attention[layer] = (apart.sum(dim=-1) * self.inside).sum(dim=-1)
        return experts, attention

    @torch.inference_mode()
    def of_experts(self, layer: int, advance: Callable[[int], object] = lambda rows: None) -> torch.Tensor:
        """The difference of each window with the partner's value of each expert of a layer: (window, expert) float32.

        Rows of windows and experts are stacked to batches as large as the clean one, because numbers may depend on the
        shape of a batch. A window in which neither prompt selects an expert is not run. `advance` is called with
        numbers of rows done.
        """
        selects, clean = self.selects(layer), self.differences()
        found = clean[:, None].repeat(1, self.experts)
        chosen = (selects | selects[self.partner]).nonzero()
        numbers = torch.arange(self.experts, device=chosen.device)
        for rows in chosen.split(self.windows) if len(chosen) else ():
            window, expert = rows[torch.arange(self.windows, device=rows.device) % len(rows)].T
            taken = (numbers == expert[:, None])[:, None]
            value = self.contributed(layer, self.partner[window], taken)
            after = self.differences(layer, window, experts_replaced(self.model, layer, taken, value))
            found[window[: len(rows)], expert[: len(rows)]] = after[: len(rows)]
            advance(len(rows))
        return found

    @torch.inference_mode()
    def of_attention(self, layer: int) -> torch.Tensor:
        """The difference of each window with the partner's value of the attention of a layer: (window,) float32."""
        every = torch.ones(self.windows, 1, dtype=torch.bool, device=self.ends.device)
        value = self.attention[layer][self.partner]
        return self.differences(layer, change=attention_replaced(self.model, layer, every, value))

    @torch.inference_mode()
    def of_positions(self, layer: int, places: torch.Tensor) -> torch.Tensor:
        """The difference of each window if a layer hands on the partner's states at some places: (window,) float32.

        places: (window, position) bool.
        """
        states = self.inputs[layer + 1]
        states = torch.where(places.to(states.device)[..., None], states[self.partner], states)
        return self.differences(layer + 1, states=states)
