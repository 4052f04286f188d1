"""Patching: run a model as if one expert of a layer were absent, weaker, stronger, or another one.

An expert's output is multiplied by its routing weight and added, with those of the other selected experts, to the
residual stream. A change acts on what the block hands its experts, which are the selected experts and their weights, in
tokens that select the expert. It is one of the stages

- "score": the expert's score is the lowest before selection. The next expert enters with the weight that its own score
  gives it; others keep theirs, unless the family normalises weights, which it then does again.
- "weight": after selection its weight is multiplied by `factor`, 0 by default. What becomes of the rest is the `mass`
  rule: "none", nothing; "keep", they are scaled so that the sum stays; "one", all are scaled so that the sum is one.
- "mean": its output is replaced by `output`, such as its mean over other tokens, and its weight stays.
- "swap": the expert `other` takes its place, with its weight.
- "logit": `delta` is added to its router logit, minus infinity by default, and the rule is applied again. This one is
  not local: a softmax shares out anew what the expert had, so weights of all tokens change, also of those that do not
  select it. A bias may select the expert even so, with a weight of 0.

The selection is always the module's own, never that of logits sorted again, which may break ties in another way.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import MoeModelOutputWithPast

from gatebook.problem import Problem
from gatebook.routing.families import routing_rule
from gatebook.routing.routers import expert_outputs, find_blocks, layers_of, router_of, selection_bias, unsupported
from gatebook.routing.rule import RoutingRule

NO_EXPERT = -1
"""In place of an expert's number: nothing is changed."""
ROWS_PER_HEAD = {"cpu": 256}
"""So many tokens go through the head at a time, on other devices `MOST_ROWS`: caches hold their logits."""
MOST_ROWS = 1024


class _Left(Exception):
    """Raised with what a layer hands on: nothing after it needs to be computed."""


@dataclass(frozen=True)
class Change:
    """What is done to an expert, see the module.

    stage, mass, factor, delta; output (hidden,) for "mean"; other: an expert's number, for "swap".
    """

    stage: Literal["score", "weight", "mean", "swap", "logit"] = "score"
    mass: Literal["none", "keep", "one"] = "none"
    factor: float = 0.0
    delta: float = -math.inf
    output: torch.Tensor | None = None
    other: int = NO_EXPERT

    @property
    def is_local(self) -> bool:
        """Whether tokens that do not select the expert stay as they are in this layer."""
        return self.stage != "logit"


def decide(
    change: Change,
    expert: torch.Tensor,
    rule: RoutingRule,
    bias: torch.Tensor | None,
    logits: torch.Tensor,
    weights: torch.Tensor,
    selected: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights and the experts of tokens after a change.

    Parameters
    ----------
    change
        What is done.
    expert
        To which expert in each token, `NO_EXPERT` for none: (token,) int64.
    rule
        Of the model.
    bias
        Added to scores to select, (expert,), or None.
    logits
        Raw router logits (token, expert).
    weights, selected
        What the module decided: (token, rank), in any order.

    Returns
    -------
    weights, selected : torch.Tensor
        (token, rank), those of the module where nothing changes.

    Raises
    ------
    Problem
        For the stage "score" if a router selects all experts that it may.
    """
    hit = selected == expert[:, None]
    changes = hit.any(dim=-1, keepdim=True)
    if change.stage == "swap":
        return weights, torch.where(hit, change.other, selected)
    if change.stage == "mean":
        return weights.masked_fill(hit, 0), selected
    if change.stage == "weight":
        return torch.where(changes, _scaled(change, weights.float(), hit).to(weights.dtype), weights), selected
    if change.stage == "score":
        if rule.top_k >= rule.experts // rule.groups * rule.kept_groups:
            raise Problem("no expert is left that could enter where one is removed: use the stage weight.")
        others = rule.preference(logits, bias).scatter(-1, selected, -math.inf)
        after = torch.where(hit, others.argmax(dim=-1, keepdim=True), selected)
        return torch.where(changes, rule.weights(logits, after).to(weights.dtype), weights), after
    known = expert[:, None] >= 0
    added = torch.zeros_like(logits).scatter(-1, expert.clamp(min=0)[:, None], change.delta)
    after = torch.where(known, logits + added, logits)
    chosen = torch.where(known, rule.select(after, bias), selected)
    return torch.where(known, rule.weights(after, chosen).to(weights.dtype), weights), chosen


def _scaled(change: Change, weights: torch.Tensor, hit: torch.Tensor) -> torch.Tensor:
    """The weights (token, rank) float32 with that of the expert, where `hit` is, scaled, and those of the rest."""
    scaled = torch.where(hit, change.factor * weights, weights)
    if change.mass == "none":
        return scaled
    if change.mass == "one":
        return scaled / scaled.sum(dim=-1, keepdim=True).clamp(min=1e-20)
    rest = weights.masked_fill(hit, 0).sum(dim=-1, keepdim=True)
    lost = (weights - scaled).sum(dim=-1, keepdim=True)
    return torch.where(hit, scaled, weights * (1 + lost / rest.clamp(min=1e-20)))


def refusal(config: transformers.PreTrainedConfig) -> str | None:
    """Why no expert of a model can be changed, given that its family is supported; None if it can."""
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return "transformers has no language-model head for it, so no change shows in what it predicts"
    return None


@contextmanager
def changed(
    model: transformers.PreTrainedModel, layer: int, change: Change, expert: torch.Tensor | int
) -> Iterator[None]:
    """Within it the model runs with a change in one layer.

    Parameters
    ----------
    model
        With or without a head.
    layer
        Number of the layer.
    change
        What is done.
    expert
        To which expert: one for all tokens, or (window, position) int64, `NO_EXPERT` where nothing is changed.
    """
    rule, bias = routing_rule(model.base_model.config), selection_bias(find_blocks(model.base_model)[layer])

    def handed(logits, weights, selected):
        numbers = torch.as_tensor(expert, device=selected.device).reshape(-1).expand(len(selected))
        return decide(change, numbers, rule, bias, logits, weights, selected)

    def lost(weights, selected):
        numbers = torch.as_tensor(expert, device=selected.device).reshape(-1, 1)
        return torch.where(selected == numbers, weights, 0).sum(dim=-1, keepdim=True) * change.output.to(weights)

    with handing(model, layer, handed, lost if change.stage == "mean" else None):
        yield


@contextmanager
def weighted(model: transformers.PreTrainedModel, layer: int, factor: torch.Tensor) -> Iterator[None]:
    """Within it the weights of the experts that tokens select in a layer are multiplied by a factor each.

    Parameters
    ----------
    model
        With or without a head.
    layer
        Number of the layer.
    factor
        (window, position, rank), in the order of `CleanRun.selected`; 0 removes that expert from that token alone.
    """

    def handed(logits, weights, selected):
        return weights * factor.to(weights).view(weights.shape), selected

    with handing(model, layer, handed):
        yield


@contextmanager
def restricted(
    model: transformers.PreTrainedModel, kept: dict[int, torch.Tensor], stage: Literal["score", "logit"] = "score"
) -> Iterator[None]:
    """Within it tokens select among some experts of each layer only, and tokens that do so anyway stay as they are.

    Parameters
    ----------
    model
        With or without a head.
    kept
        By layer, which experts are kept: (expert,) bool.
    stage
        "score": those that enter get the weight that their own score gives them; "logit": logits of the others are
        minus infinity, so that a softmax shares out anew what they had, in all tokens.

    Raises
    ------
    Problem
        Where fewer experts are kept than a token selects.
    """
    rule, blocks = routing_rule(model.base_model.config), find_blocks(model.base_model)

    def handed(layer: int) -> Callable:
        bias, among = selection_bias(blocks[layer]), kept[layer].to(model.device)
        if among.sum() < rule.top_k:
            raise Problem(
                f"{int(among.sum())} experts are kept in layer {layer}, of which {rule.top_k} are to be selected."
            )

        def decided(logits, weights, selected):
            stays = among.all() if stage == "logit" else among[selected].all(dim=-1, keepdim=True)
            after = logits if stage == "score" else logits.masked_fill(~among, -math.inf)
            chosen = rule.preference(after, bias).masked_fill(~among, -math.inf).topk(rule.top_k, dim=-1).indices
            chosen = torch.where(stays, selected, chosen)
            entered = rule.weights(after, chosen).masked_fill(~among[chosen], 0)  # too few of the kept groups' are left
            return torch.where(stays, weights, entered.to(weights.dtype)), chosen

        return decided

    with ExitStack() as stack:
        for layer in kept:
            stack.enter_context(handing(model, layer, handed(layer)))
        yield


@contextmanager
def handing(
    model: transformers.PreTrainedModel, layer: int, decided: Callable, added: Callable | None = None
) -> Iterator[None]:
    """Within it the block of a layer hands its experts other weights and experts than its own.

    decided: those of its logits (token, expert), weights and selected experts (token, rank); added: what the experts'
    output (token, hidden) is more, of the block's own weights and selected experts.
    """
    block, seen = find_blocks(model.base_model)[layer], {}

    def routed(module, given, output):
        seen["logits"] = output if isinstance(output, torch.Tensor) else output[0]

    def handed(module, given):
        states, selected, weights = given
        if added:
            seen["added"] = added(weights, selected)
        weights, selected = decided(seen.pop("logits"), weights, selected)
        return states, selected, weights

    def returned(module, given, output):
        return output + seen.pop("added").to(output).view(output.shape)

    handles = [router_of(block).register_forward_hook(routed), block.experts.register_forward_pre_hook(handed)]
    if added:
        handles.append(block.experts.register_forward_hook(returned))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def hooked(*handles) -> Iterator[None]:
    """Within it hooks are there; after it they are removed."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def returning(module: nn.Module, changed: Callable[[torch.Tensor], torch.Tensor]) -> AbstractContextManager[None]:
    """Within it a module returns what `changed` makes of its states, and what it returns besides."""

    def hook(module, given, output):
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    return hooked(module.register_forward_hook(hook))


@contextmanager
def replaced(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Within it a module computes something else; what it had of its own, such as on several GPUs, comes back."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _loss_of(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The loss of tokens (row,) in nats."""
    return nn.functional.cross_entropy(logits, wanted, reduction="none")


def _logit_of(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The logit of tokens (row,), less the mean over the vocabulary."""
    return logits.gather(-1, wanted[:, None])[:, 0] - logits.mean(dim=-1)


class CleanRun:
    """A model that ran on windows, and runs again from any layer on.

    loss (window, position - 1) float32: nats of each next token; known (window, position - 1) bool: where there is one,
    elsewhere the loss is 0; selected, weights: by layer with a router, (window, position, rank) int64 and the model's
    dtype, as the module's own; inputs: by layer, what it received, and of the number after the last layer what that one
    handed on, (window, position, hidden).
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: transformers.PreTrainedModel,
        token_ids: torch.Tensor,
        lengths: torch.Tensor | None = None,
        *,
        loss: bool = True,
    ):
        """Run a model.

        Parameters
        ----------
        model
            With a head, in evaluation mode.
        token_ids
            (window, position) int64, on its device.
        lengths
            Tokens of each window, (window,) int64; what follows them pads it. None: all of its positions.
        loss
            Whether it is to be known; if not, the head is not run.

        Raises
        ------
        Problem
            If its blocks do not hand their experts what a change acts on.
        """
        self.model, self.token_ids = model, token_ids
        places = torch.arange(1, token_ids.shape[1], device=token_ids.device)
        ends = token_ids.shape[1] if lengths is None else lengths[:, None]
        self.known = (places < (ends if loss else 0)).expand(len(token_ids), -1)
        if reason := refusal(model.config):
            raise unsupported(model.config, reason)
        self.inputs: dict[int, torch.Tensor] = {}
        self.selected: dict[int, torch.Tensor] = {}
        self.weights: dict[int, torch.Tensor] = {}
        self._states: dict[int, torch.Tensor] = {}
        self._returned: dict[int, tuple | None] = {}
        handles = []
        for index, layer in enumerate(layers_of(model.base_model)):
            handles.append(layer.register_forward_pre_hook(self._received(index), with_kwargs=True))
            handles.append(layer.register_forward_hook(self._left(index)))
        for index, block in find_blocks(model.base_model).items():
            handles.append(block.experts.register_forward_pre_hook(self._handed(index)))
        try:
            self.loss = self._loss(token_ids, self.known)
        finally:
            for handle in handles:
                handle.remove()
        if missing := find_blocks(model.base_model).keys() - self.selected.keys():
            reason = f"the block of layer {min(missing)} does not hand its experts what a change acts on"
            raise unsupported(model.base_model.config, reason)

    def _received(self, index: int) -> Callable:
        def keep(module, given, named):
            self.inputs[index] = given[0] if given else named["hidden_states"]

        return keep

    def _left(self, index: int) -> Callable:
        def keep(module, given, output):
            states, self._returned[index] = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            self.inputs[index + 1] = states

        return keep

    def _handed(self, index: int) -> Callable:
        def keep(module, given):
            if len(given) == 3 and given[1].dtype == torch.int64 and given[1].shape == given[2].shape:
                self._states[index] = given[0].reshape(-1, given[0].shape[-1])
                shape, device = (*self.token_ids.shape, -1), self.token_ids.device
                self.selected[index], self.weights[index] = (each.view(shape).to(device) for each in given[1:])

        return keep

    def _loss(self, token_ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The loss (row, position - 1) float32 where it is to be `known`, elsewhere 0."""
        states = self.model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state[:, :-1].to(known.device)
        loss = states.new_zeros(known.shape, dtype=torch.float32)
        loss[known] = self._scored(states[known], token_ids[:, 1:][known], _loss_of)
        return loss

    def _scored(self, states: torch.Tensor, targets: torch.Tensor, score: Callable) -> torch.Tensor:
        """What `score` gives of the logits of last states (row, hidden), after the norm, and of targets (row,)."""
        base, found = self.model.base_model, []
        size = ROWS_PER_HEAD.get(states.device.type, MOST_ROWS)
        for part, wanted in zip(states.split(size), targets.split(size), strict=True):
            ended = MoeModelOutputWithPast(last_hidden_state=part[None])
            with replaced(base, lambda *given, ended=ended, **named: ended):
                logits = self.model(input_ids=wanted[None], use_cache=False).logits[0].float()
            found.append(score(logits.to(wanted.device), wanted))
        return torch.cat(found) if found else states.new_zeros(0, dtype=torch.float32)

    @torch.inference_mode()
    def mean_output(self, layer: int, expert: int) -> torch.Tensor:
        """The mean output, not weighted, of an expert over tokens that select it: (hidden,) float32, 0 without any."""
        block, states = find_blocks(self.model.base_model)[layer], self._states[layer]
        chosen = states[(self.selected[layer] == expert).any(dim=-1).flatten().to(states.device)]
        if not len(chosen):
            return states.new_zeros(states.shape[-1], dtype=torch.float32)
        alone = torch.full((len(chosen), 1), expert, device=states.device)
        return expert_outputs(block, chosen, alone)[:, 0].float().mean(dim=0)

    @torch.inference_mode()
    def contributions(self, layer: int) -> torch.Tensor:
        """Weight times output of every selected expert of a layer: (window, position, rank, hidden)."""
        states, selected = self._states[layer], self.selected[layer]
        which = selected.flatten(0, 1).to(states.device)
        alone = expert_outputs(find_blocks(self.model.base_model)[layer], states, which)
        return self.weights[layer][..., None] * alone.view(*selected.shape, -1).to(selected.device)

    @torch.inference_mode()
    def direct_logits(self, layer: int) -> torch.Tensor:
        """By how much the next token's logit falls without the contribution of an expert to the last state.

        What the last layer hands on is taken as it is, less the contribution; the logit is that of the token, less the
        mean over the vocabulary. (window, position - 1, rank) float32, 0 where no token follows.
        """
        contributions, last = self.contributions(layer), len(self._returned)
        targets = self.token_ids[:, 1:][self.known]

        def logits(states: torch.Tensor) -> torch.Tensor:
            with self._resumed(last, states):
                ends = self.model.base_model(input_ids=self.token_ids, use_cache=False).last_hidden_state[:, :-1]
            return self._scored(ends.to(self.known.device)[self.known], targets, _logit_of)

        whole, found = logits(self.inputs[last]), self.loss.new_zeros(*self.loss.shape, contributions.shape[2])
        for rank, part in enumerate(contributions.unbind(dim=2)):
            found[..., rank][self.known] = whole - logits(self.inputs[last] - part.to(self.inputs[last].device))
        return found

    def gradients(self) -> dict[int, torch.Tensor]:
        """Minus the derivative of the loss by a factor of each selected expert's weight, at 1.

        By layer (window, position, rank): what removing the expert from that token would do to the loss of its window
        if the loss were linear, which is its contribution times the gradient.
        """
        known, layers = self.known.clone(), sorted(self.selected)
        with torch.enable_grad(), ExitStack() as stack:
            factors = [torch.ones_like(self.weights[layer], requires_grad=True) for layer in layers]
            for layer, factor in zip(layers, factors, strict=True):
                stack.enter_context(weighted(self.model, layer, factor))
            found = torch.autograd.grad(self._loss(self.token_ids, known).sum(), factors)
        return dict(zip(layers, (-each for each in found), strict=True))

    @contextmanager
    def _resumed(self, layer: int, states: torch.Tensor) -> Iterator[None]:
        """Within it the layers before one compute nothing, and that one receives `states`."""
        before = list(layers_of(self.model.base_model))[:layer]

        def given_back(index: int) -> Callable:
            rest = self._returned[index]

            def forward(*given, **named):
                return states if rest is None else (states, *rest)

            return forward

        with ExitStack() as stack:
            for index, one in enumerate(before):
                stack.enter_context(replaced(one, given_back(index)))
            yield

    @torch.inference_mode()
    def loss_after(
        self, layer: int, change: Change | None, windows: torch.Tensor, experts: torch.Tensor
    ) -> torch.Tensor:
        """The loss (row, position - 1) float32 of windows, each with a change to one expert of a layer.

        Only that layer and those after it run, from what it received in the clean run.

        Parameters
        ----------
        layer
            Number of the layer.
        change
            What is done; None for nothing.
        windows, experts
            Which window and which expert each row is about: (row,) int64.
        """
        every = experts.to(self.token_ids.device)[:, None].expand(-1, self.token_ids.shape[1])
        return self.loss_within(layer, windows, changed(self.model, layer, change, every) if change else nullcontext())

    @torch.inference_mode()
    def loss_within(self, layer: int, windows: torch.Tensor, change: AbstractContextManager) -> torch.Tensor:
        """The loss (row, position - 1) float32 of windows (row,) int64 within a change of a layer or of those after it.

        Only these run, from what the layer received in the clean run.
        """
        with self._resumed(layer, self.inputs[layer][windows]), change:
            return self._loss(self.token_ids[windows], self.known[windows])

    @torch.inference_mode()
    def logits_within(self, layer: int, windows: torch.Tensor, change: AbstractContextManager) -> torch.Tensor:
        """The logits (row, position, token id) of the next tokens, in the place of the loss of `loss_within`."""
        with self._resumed(layer, self.inputs[layer][windows]), change:
            return self.model(input_ids=self.token_ids[windows], use_cache=False).logits

    @torch.inference_mode()
    def states_within(self, layer: int, change: AbstractContextManager, *tokens: torch.Tensor) -> torch.Tensor:
        """What leaves a layer and each of those after it within a change: (layer, token, hidden), of some tokens.

        Only these layers run, from what the first received in the clean run. tokens: the window and the position of
        each, (token,) int64.
        """
        found: list[torch.Tensor] = []

        def keep(module, given, output):
            found.append((output[0] if isinstance(output, tuple) else output)[tokens])

        handles = [one.register_forward_hook(keep) for one in list(layers_of(self.model.base_model))[layer:]]
        try:
            with self._resumed(layer, self.inputs[layer]), change:
                self.model.base_model(input_ids=self.token_ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(found)

    @torch.inference_mode()
    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """The logits (token, vocabulary) float32 that the model's last norm and head make of states (token, hidden).

        They may be those of any layer (the logit lens), or of the last one, of which these are what the model says.
        """
        with self._resumed(len(layers_of(self.model.base_model)), states[:, None]):
            ids = self.token_ids.new_zeros(len(states), 1)
            return self.model(input_ids=ids, use_cache=False).logits[:, 0].float()

    @torch.inference_mode()
    def handed_on(self, layer: int, change: Change) -> torch.Tensor:
        """What a layer hands on if a local change is made to the expert of one rank in all tokens at once.

        Tokens are independent of each other within the layer after its attention: what is right of all tokens at once
        is right of each. So (rank, window, position, hidden), ranks as in `selected`, holds what the layer hands on if
        the change is made to any one expert, whichever that is.
        """

        def left(module, given, output):
            raise _Left(output[0] if isinstance(output, tuple) else output)

        found, selected = [], self.selected[layer]
        handle = layers_of(self.model.base_model)[layer].register_forward_hook(left)
        try:
            for rank in range(selected.shape[-1]):
                one = changed(self.model, layer, change, selected[..., rank])
                with self._resumed(layer, self.inputs[layer]), one:
                    try:
                        self.model.base_model(input_ids=self.token_ids, use_cache=False)
                    except _Left as states:
                        found.append(states.args[0])
        finally:
            handle.remove()
        return torch.stack(found)

    @torch.inference_mode()
    def effects(
        self, layer: int, change: Change, experts: list[int], advance: Callable[[int], object] = lambda rows: None
    ) -> torch.Tensor:
        """What a change to each of some experts of a layer does to the loss: (expert, window, position - 1) float32.

        Windows of all experts are stacked to batches as large as the clean one, because numbers may depend on the shape
        of a batch. If the change is local the layer runs once for each rank, see `handed_on`, and only the layers after
        it once for each expert; a window in which no token selects the expert is not run at all, and the head is not
        for tokens before the first that does: there the effect is 0.

        `advance` is called with numbers of windows done, of all experts.
        """
        selected, count = self.selected[layer], len(self.token_ids)
        numbers = torch.tensor(experts, device=selected.device)
        hits = selected == numbers[:, None, None, None]  # (expert, window, position, rank)
        if change.is_local:
            reached = hits.any(dim=-1)[..., :-1] & self.known
            if layer + 1 < len(self._returned):  # attention after it hands on what changed
                reached = (reached.cumsum(dim=-1) > 0) & self.known
            local = self.handed_on(layer, change)
        else:
            reached = self.known.expand(len(experts), -1, -1)
        effect = self.loss.new_zeros(reached.shape)
        chosen = reached.any(dim=-1).nonzero()
        for rows in chosen.split(count) if len(chosen) else ():
            which, window = rows[torch.arange(count, device=rows.device) % len(rows)].T
            at, kept = reached[which, window], slice(len(rows))
            at[len(rows) :] = False  # these make the batch as large as the others
            if change.is_local:
                with self._resumed(layer + 1, self._with(layer, local, hits[which, window], window)):
                    after = self._loss(self.token_ids[window], at)
            else:
                after = self.loss_after(layer, change, window, numbers[which])
            effect[which[kept], window[kept]] = torch.where(at, after - self.loss[window], 0)[kept]
            advance(len(rows))
        return effect

    def _with(self, layer: int, local: torch.Tensor, hit: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        """What a layer hands on of windows (row,), `local` where an expert is changed: (row, position, hidden).

        local: as of `handed_on`; hit (row, position, rank) bool: where a token selects the expert.
        """
        hit, window, place = (each.to(local.device) for each in (hit, window, torch.arange(hit.shape[1])))
        after = local[hit.float().argmax(dim=-1), window[:, None], place]
        return torch.where(hit.any(dim=-1, keepdim=True), after, self.inputs[layer + 1][window])
