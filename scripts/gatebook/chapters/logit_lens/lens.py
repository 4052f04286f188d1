"""The lens: what the final norm and the head of a model read from any state, and what experts write for them.

A place is where a state is read: the embedding, after the attention of a layer, after the layer. All that is said of a
family is found by running a few tokens: which module is the final norm and what it does with its scale frozen, by what
the head's output is multiplied, where the state after attention is, and by how much of the experts' output the state
grows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import transformers
from torch import nn

from gatebook.chapters.logit_lens import ATTENTION, EMBEDDING, LAYER
from gatebook.routing.extraction import take
from gatebook.routing.models import expert_matrices
from gatebook.routing.patching import refusal
from gatebook.routing.routers import expert_outputs, find_blocks, find_norm, layers_of, unsupported

PROBED = 8
"""Tokens that a model is tried with."""
ROUNDING = 16
"""By so many units of rounding what is found may miss what the model does; float32 counts as 1e-4 at least."""


@dataclass
class Handed:
    """What the experts of a layer were handed: states (row, width), selected int64 and weights (row, rank)."""

    states: torch.Tensor
    selected: torch.Tensor
    weights: torch.Tensor


@dataclass
class Read:
    """What one run showed: the state (row, hidden) of each place by its name; by layer what experts were handed and
    what the layer returned."""

    states: dict[str, torch.Tensor] = field(default_factory=dict)
    handed: dict[int, Handed] = field(default_factory=dict)
    returned: dict[int, torch.Tensor | tuple] = field(default_factory=dict)


class Lens:
    """The final norm and the head of a model.

    places: their names, in order; blocks: by layer, those with experts; unwritten: why what experts write is not known,
    "" if it is.
    """

    @torch.inference_mode()
    def __init__(self, model: transformers.PreTrainedModel):
        """Try the model, which is in evaluation mode. A `Problem` if it has no head or no final norm that is known."""
        if reason := refusal(model.config):
            raise unsupported(model.config, reason)
        self.model, self.base, self.unwritten = model, model.base_model, ""
        self.layers, self.blocks = layers_of(self.base), find_blocks(self.base)
        self._head, self._norm_before = model.get_output_embeddings(), find_norm(self.base.config)
        self.places = [EMBEDDING, *(name for layer in range(len(self.layers)) for name in self._places_of(layer))]
        eps = torch.finfo(model.dtype).eps
        self._tolerance = ROUNDING * max(eps, 1e-4 / ROUNDING)
        tried = self._try(torch.arange(1, PROBED + 1, device=model.device)[None] % model.config.vocab_size)
        self._norm, self._factor = tried.norm, self._factor_of(tried)
        self._freeze(tried.seen.states[self.places[-1]])
        for name in [name for name in self.places if name.startswith("attention")]:  # all at once, or none
            before = self.places[self.places.index(name) - 1]
            if name not in tried.seen.states or tried.seen.states[name].equal(tried.seen.states[before]):
                self.places.remove(name)
        self._written = {layer: self._share_written(layer, tried.called[layer]) for layer in self.blocks}

    def _places_of(self, layer: int) -> list[str]:
        return [ATTENTION.format(layer)] * (layer in self.blocks) + [LAYER.format(layer)]

    # ---------------------------------------------------------------- reading

    def normed(self, states: torch.Tensor) -> torch.Tensor:
        """What the head receives of states (row, hidden)."""
        where = next(self._norm.parameters()).device
        return self._norm(states.to(where)).to(self.device)

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """The logits (row, vocabulary) float32 of what the head receives (row, hidden)."""
        logits = self._head(normed.to(self._head.weight.dtype)).float()
        return logits if self._factor == 1 else logits * self._factor

    @property
    def words(self) -> int:
        """How many tokens the head knows."""
        return len(self._head.weight)

    @property
    def experts(self) -> int:
        """How many experts a layer has."""
        return max(len(expert_matrices(block).down) for block in self.blocks.values())

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self._head.weight.device

    @contextmanager
    def watching(self, rows: torch.Tensor) -> Iterator[Read]:
        """Within it runs of the model fill what is read at `rows` (row,) int64, counted through all windows."""
        seen, handles = Read(), []

        def keep(name: str, state: torch.Tensor) -> None:
            if name in self.places:
                seen.states[name] = take(state, rows)

        def first_of(given, named):
            return given[0] if given else named["hidden_states"]

        def received(name: str):
            return lambda module, given, named: keep(name, first_of(given, named))

        def returned(layer: int):
            def keep_all(module, given, output):
                seen.returned[layer] = output
                keep(LAYER.format(layer), output[0] if isinstance(output, tuple) else output)

            return keep_all

        def handed(layer: int):
            def take_all(module, given):
                if len(given) == 3 and given[1].dtype == torch.int64 and given[1].shape == given[2].shape:
                    seen.handed[layer] = Handed(*(take(each, rows) for each in given))

            return take_all

        handles.append(self.layers[0].register_forward_pre_hook(received(EMBEDDING), with_kwargs=True))
        for layer, module in enumerate(self.layers):
            handles.append(module.register_forward_hook(returned(layer)))
        for layer, block in self.blocks.items():
            before = self.layers[layer].get_submodule(self._norm_before) if self._norm_before else block
            handles.append(before.register_forward_pre_hook(received(ATTENTION.format(layer)), with_kwargs=True))
            handles.append(block.experts.register_forward_pre_hook(handed(layer)))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def run(self, token_ids: torch.Tensor, rows: torch.Tensor) -> Read:
        """Run the model without its head on windows (window, position) int64, and read at `rows` (see `watching`)."""
        with self.watching(rows) as seen:
            self.base(input_ids=token_ids, use_cache=False)
        return seen

    @contextmanager
    def resumed(self, layer: int, returned: dict[int, torch.Tensor | tuple]) -> Iterator[None]:
        """Within it the layers before one compute nothing: they return what they `returned` in a run, by layer."""
        held = [(module, module.__dict__.get("forward")) for module in list(self.layers)[:layer]]
        for index, (module, _) in enumerate(held):
            module.forward = partial(_again, returned[index])
        try:
            yield
        finally:
            for module, forward in held:
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward

    # ---------------------------------------------------------------- writing

    def written(self, layer: int, handed: Handed) -> torch.Tensor:
        """What each selected expert adds to the state: (row, rank, hidden) float32, on the head's device."""
        outputs = expert_outputs(self.blocks[layer], handed.states, handed.selected).float()
        return (outputs * (handed.weights.float() * self._written[layer])[..., None]).to(self.device)

    def scale(self, states: torch.Tensor) -> torch.Tensor:
        """By what the final norm multiplies states (row, hidden), its gain aside: (row,) float32."""
        linear = self._linear(states.to(self.device).float())
        normed = self.normed(states).float() - self._bias
        return (linear * normed).sum(dim=-1) / linear.square().sum(dim=-1).clamp(min=1e-30)

    def _linear(self, states: torch.Tensor) -> torch.Tensor:
        return (states - states.mean(dim=-1, keepdim=True) * self._centred) * self._gain

    def directions(self, token_ids: torch.Tensor) -> torch.Tensor:
        """What a state is multiplied with, before `scale`, for a token's logit minus the mean logit.

        token_ids (...) int64; returned are (..., hidden) float32.
        """
        rows = (self._head.weight[token_ids.to(self.device)].float() - self._mean_row) * self._factor * self._gain
        return rows - rows.mean(dim=-1, keepdim=True) * self._centred

    def unembedded(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits minus their mean of what is added to the state, (vector, hidden) float32, before `scale`."""
        logits = nn.functional.linear(self._linear(vectors).to(self._head.weight.dtype), self._head.weight).float()
        return (logits - logits.mean(dim=-1, keepdim=True)) * self._factor

    def leading(self, layer: int, count: int) -> torch.Tensor:
        """The leading directions of every expert's output, as the final norm's gain leaves them, by its weights alone.

        Left singular vectors of gain ∘ down projection, times their singular values: (expert, direction, hidden).
        """
        down = expert_matrices(self.blocks[layer]).down.to(self.device).float()
        found = []
        for one in down:
            scaled = self._linear(one.T)  # (neuron, hidden)
            _, vectors = torch.linalg.eigh(scaled @ scaled.T)
            found.append(vectors.flip(1)[:, :count].T @ one.T)
        return torch.stack(found)

    # ---------------------------------------------------------------- trying

    @dataclass
    class _Tried:
        seen: Read
        norm: nn.Module
        called: dict[int, tuple]
        head: torch.Tensor
        logits: torch.Tensor

    def _try(self, ids: torch.Tensor) -> "Lens._Tried":
        """Run the model on a window and find what layers were called with, the final norm and what the head said."""
        called, handles, last, head = {}, [], [], []
        inside = set(self.layers.modules())

        def call(layer: int):
            return lambda module, given, named: called.update({layer: (given, named)})

        def child(module, given, output):
            if given and isinstance(given[0], torch.Tensor):
                last.append((module, given[0], output))

        for layer, module in enumerate(self.layers):
            handles.append(module.register_forward_pre_hook(call(layer), with_kwargs=True))
        for module in self.base.children():
            if module not in inside and module is not self.layers:
                handles.append(module.register_forward_hook(child))
        handles.append(self._head.register_forward_hook(lambda module, given, output: head.append((given[0], output))))
        try:
            with self.watching(torch.arange(ids.numel(), device=ids.device)) as seen:
                logits = self.model(input_ids=ids, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        norm, given, output = last[-1]
        through = take(given, torch.arange(ids.numel(), device=ids.device)).equal(seen.states[self.places[-1]])
        if not through or not torch.equal(head[0][0], output):
            raise unsupported(self.model.config, "no single norm stands between its last layer and its head")
        if self._head.weight.is_meta:
            raise unsupported(self.model.config, "its head is not in the memory of a device: set gpus higher")
        return self._Tried(seen, norm, called, head[0][1], logits)

    def _factor_of(self, tried: "_Tried") -> float:
        """By what the head's output is multiplied."""
        logits, head = tried.logits.double(), tried.head.double()
        if logits.equal(head):
            return 1.0
        factor = float((logits * head).sum() / head.square().sum())
        if not self._near(factor * head, logits):
            raise unsupported(self.model.config, "its logits are not in proportion to what its head returns")
        return factor

    def _near(self, found: torch.Tensor, wanted: torch.Tensor) -> bool:
        return bool((found - wanted).norm() <= self._tolerance * wanted.norm())

    def _freeze(self, states: torch.Tensor) -> None:
        """Find the gain and the bias of the final norm, and whether it takes away the mean."""
        hidden = states.shape[-1]
        sign = torch.tensor([1.0, -1, 1, -1, 1, 1, -1, -1]).repeat(-(-hidden // 8))[:hidden]
        sign = sign.to(self.device, states.dtype)
        large = 2.0**20  # beside which the norm's epsilon is nothing
        up, down = self.normed(large * sign).float(), self.normed(-large * sign).float()
        self._bias = (up + down) / 2
        self._gain, self._centred = (up - down) / 2 * sign.float(), 0.0
        ones = self.normed(torch.full_like(sign, large)).float() - self._bias
        if ones.norm() <= self._tolerance * self._gain.norm():
            self._centred = 1.0
        self._mean_row = self._head.weight.float().mean(dim=0)
        linear = self._linear(states.to(self.device).float()) * self.scale(states)[:, None]
        if not self._near(linear + self._bias, self.normed(states).float()):
            raise unsupported(
                self.model.config, "its final norm does more than divide by a size and multiply by a gain"
            )

    def _share_written(self, layer: int, called: tuple) -> float:
        """By which share of its experts' output the output of a layer grows; notes in `unwritten` if it is no share."""
        experts, (given, named) = self.blocks[layer].experts, called
        generator, added = torch.Generator().manual_seed(layer), {}

        def output(times: float) -> torch.Tensor:
            def add(module, given, output):
                if "noise" not in added:
                    noise = torch.randn(output.shape, generator=generator).to(output)
                    added["noise"] = noise * output.float().square().mean().sqrt().clamp(min=1e-3).to(output)
                return output + times * added["noise"]

            handle = experts.register_forward_hook(add)
            found = self.layers[layer](*given, **named)
            handle.remove()
            return (found[0] if isinstance(found, tuple) else found).float()

        plain, once, more = (output(times) for times in (0.0, 1.0, 4.0))
        noise = added["noise"].float()
        if noise.numel() != plain.numel():
            self.unwritten = "what its experts return is not as wide as the state"
            return 0.0
        noise = noise.view(plain.shape)
        share = float(((more - plain) * noise).sum() / (4 * noise.square().sum()))
        if not (self._near(4 * share * noise, more - plain) and self._near(share * noise, once - plain)):
            self.unwritten = "what its experts write passes a norm before it is added to the state"
        return 1.0 if self._near(4 * noise, more - plain) else share


def _again(output: torch.Tensor | tuple, *given, **named) -> torch.Tensor | tuple:
    return output
