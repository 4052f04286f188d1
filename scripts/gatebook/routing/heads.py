"""Heads: what each head of an attention returns, where it looks, and a model that runs with other heads' outputs.

What the heads of an attention return stands side by side in what its output projection receives: a head is a slice of
that. Both modules are found by running a few tokens: an attention is a module of a layer that returns, beside its
output, weights (window, head, query, key); its projection is the linear module inside whose output that is. Weights are
known only where attention is computed plainly (`plainly`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import transformers
from torch import nn

from gatebook.problem import Problem
from gatebook.routing.routers import layers_of

PROBED = 7
"""Tokens that a model is tried with; no head is as wide."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Nats per token by which what a model predicts may differ, with the attention that it runs with and computed plainly;
of other dtypes `COARSE`."""
COARSE = 0.02


@dataclass(frozen=True)
class Attention:
    """The attention of a layer: its module, its output projection, and how many heads it has."""

    module: nn.Module
    projection: nn.Module
    heads: int


@dataclass
class Seen:
    """What a run showed, by layer: outputs (window, position, head, width), patterns (window, head, query, key)."""

    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    patterns: dict[int, torch.Tensor] = field(default_factory=dict)


@contextmanager
def plainly(model: transformers.PreTrainedModel) -> Iterator[None]:
    """Within it attention is computed plainly (`eager`), so that its weights are known."""
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@torch.inference_mode()
def check_plain(model: transformers.PreTrainedModel, token_ids: torch.Tensor) -> float:
    """By how many nats per token what a model predicts differs where attention is computed plainly (see `TOLERANCE`).

    The divergence of the one prediction from the other, mean over tokens (window, position) int64. A `Problem` if it
    is more than rounding explains.
    """
    own = model(input_ids=token_ids, use_cache=False).logits.float().log_softmax(dim=-1)
    with plainly(model):
        plain = model(input_ids=token_ids, use_cache=False).logits.float().log_softmax(dim=-1)
    apart = max(float((own.exp() * (own - plain)).sum(dim=-1).mean()), 0.0)
    if not apart <= TOLERANCE.get(model.dtype, COARSE):
        raise Problem(
            f"{model.config.name_or_path}: with the attention {model.config._attn_implementation!r} predictions differ "
            f"by {apart:.2g} nats per token from those of 'eager', in which heads are seen: set attention to eager."
        )
    return apart


@torch.inference_mode()
def find_attentions(model: transformers.PreTrainedModel) -> dict[int, Attention]:
    """The attentions of a model by layer; layers without one, such as those of a state-space model, are left out.

    A `Problem` naming the family if there is none whose output projection is known.
    """
    found: dict[int, Attention] = {}
    linear: dict[int, tuple[nn.Module, torch.Tensor]] = {}

    def returned(index: int) -> Callable:
        def keep(module, given, output):
            if isinstance(module, nn.Linear):
                linear[id(output)] = module, output  # held, so that no other tensor gets its id
            elif isinstance(output, tuple) and len(output) > 1 and _are_weights(output[1]):
                projection, _ = linear.get(id(output[0]), (None, None))
                if projection is not None and projection.in_features % output[1].shape[1] == 0:
                    found[index] = Attention(module, projection, output[1].shape[1])

        return keep

    handles = [
        module.register_forward_hook(returned(index))
        for index, layer in enumerate(layers_of(model.base_model))
        for module in layer.modules()
    ]
    try:
        with plainly(model):
            ids = torch.arange(1, PROBED + 1, device=model.device)[None] % model.config.vocab_size
            model.base_model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise Problem(
            f"model_type {model.config.model_type!r} ({model.config.name_or_path}): no attention of it ends in a "
            "linear projection of what its heads return, so no heads are known."
        )
    return dict(sorted(found.items()))


def _are_weights(output: object) -> bool:
    return isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2:] == (PROBED, PROBED)


@contextmanager
def watching(attentions: Mapping[int, Attention]) -> Iterator[Seen]:
    """Within it a run of the model fills what is seen of the attentions; patterns only where it runs `plainly`."""
    seen, handles = Seen(), []

    def received(layer: int) -> Callable:
        def keep(module, given):
            seen.outputs[layer] = given[0].unflatten(-1, (attentions[layer].heads, -1))

        return keep

    def returned(layer: int) -> Callable:
        def keep(module, given, output):
            if output[1] is not None:
                seen.patterns[layer] = output[1]

        return keep

    for layer, one in attentions.items():
        handles.append(one.projection.register_forward_pre_hook(received(layer)))
        handles.append(one.module.register_forward_hook(returned(layer)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(
    attentions: Mapping[int, Attention], outputs: Mapping[int, torch.Tensor], where: Mapping[int, torch.Tensor]
) -> Iterator[None]:
    """Within it heads return something else.

    Parameters
    ----------
    attentions
        Of the model, by layer.
    outputs
        What they return, by layer, as those of `Seen`: (window, position, head, width).
    where
        Which of them do so, by layer, and those of no other layer: bool, to be broadcast to (window, position, head).
    """

    def received(layer: int) -> Callable:
        def other(module, given):
            own = given[0].unflatten(-1, (attentions[layer].heads, -1))
            chosen = where[layer].to(own.device)[..., None]
            return (torch.where(chosen, outputs[layer].to(own), own).flatten(-2), *given[1:])

        return other

    handles = [attentions[layer].projection.register_forward_pre_hook(received(layer)) for layer in where]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
