"""Routers: where a model has them, how its blocks call them, and the bias that they select by."""

from contextlib import suppress
from copy import deepcopy
from itertools import chain

import torch
import transformers
from torch import nn
from transformers import AutoModel

from gatebook.problem import Problem

BIASES = ("e_score_correction_bias", "expert_bias")
"""Names of the trained bias that is added to scores to select, in a router or in the block that hands it over."""
PROBED = 128
"""Tokens that a router is tried with."""


class _Called(Exception):
    """Raised when a block calls its router: nothing after it needs to be computed."""


def skeleton(config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    """The base model of a config, without weights."""
    allowed = type(config).__module__.startswith("transformers_modules")  # code of the folder runs already
    try:
        with torch.device("meta"):
            return AutoModel.from_config(config, trust_remote_code=allowed)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise unsupported(
            config, f"transformers builds no model of its config ({str(error).splitlines()[0]})"
        ) from error


def unsupported(config: transformers.PreTrainedConfig, reason: str) -> Problem:
    """What to raise when a family, or this model of it, cannot be studied."""
    return Problem(
        f"model_type {config.model_type!r} ({config.name_or_path}) is not supported: {reason}; the README lists the "
        "families that are."
    )


def find_routers(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """Router modules by layer index; dense layers have none, so indices may start above 0.

    A `Problem` for a model of which transformers does not say what a router is.
    """
    recorder = (type(model)._can_record_outputs or {}).get("router_logits")
    if not hasattr(recorder, "target_class") or not hasattr(model, "layers"):
        raise unsupported(model.config, "transformers does not say which one module of a layer is its router")
    return {
        layer: module
        for layer, block in enumerate(model.layers)
        for module in block.modules()
        if isinstance(module, recorder.target_class)
    }


def find_blocks(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """Mixture-of-Experts blocks, which hold a router and its `experts`, by layer index."""
    return {
        layer: module
        for layer, router in find_routers(model).items()
        for module in model.layers[layer].modules()
        if hasattr(module, "experts") and any(child is router for child in module.children())
    }


def router_of(block: nn.Module) -> nn.Module:
    """The router of a block: the child called so, or called gate."""
    return block.router if hasattr(block, "router") else block.gate


def rows_of(router: nn.Module) -> torch.Tensor:
    """The matrix of a router, one row per expert: (expert, hidden)."""
    (rows,) = (
        parameter for name, parameter in router.named_parameters() if parameter.dim() == 2 and not name.endswith(BIASES)
    )
    return rows


def find_norm(config: transformers.PreTrainedConfig) -> str | None:
    """The name within its layer of the norm whose output a Mixture-of-Experts block receives.

    None if the block receives what no norm returned.
    """
    model = skeleton(config)
    layer, block = next(iter(find_blocks(model).items()))
    inside, returned = set(block.modules()), {}

    def remember(name: str):
        return lambda module, given, output: returned.update({name: output})

    def called(module, given, named):
        returned[""] = given[0] if given else named["hidden_states"]
        raise _Called

    block.register_forward_pre_hook(called, with_kwargs=True)
    for name, module in model.layers[layer].named_modules():
        if name and module not in inside:
            module.register_forward_hook(remember(name))
    ids, mask = torch.zeros(1, 4, dtype=torch.int64, device="meta"), torch.zeros(1, 1, 4, 4, device="meta")
    try:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    except _Called:
        pass
    except (RuntimeError, TypeError, ValueError) as error:
        reason = f"its layers cannot be followed to the experts without weights ({str(error).splitlines()[0]})"
        raise unsupported(config, reason) from error
    states = returned.pop("")
    return next((name for name, output in returned.items() if output is states or output is states._base), None)


def selection_bias(block: nn.Module) -> torch.Tensor | None:
    """The trained bias by which a block's router selects besides its scores, (expert,); None if there is none."""
    for name, tensor in chain(block.named_buffers(), block.named_parameters()):
        if name.rpartition(".")[2] in BIASES:
            return tensor.flatten()
    return None


def selection_biases(model: transformers.PreTrainedModel, layers: list[int]) -> dict[int, torch.Tensor | None]:
    """The `selection_bias` of each of the layers."""
    blocks = find_blocks(model)
    return {layer: selection_bias(blocks[layer]) for layer in layers}


@torch.no_grad()
def probe(block: nn.Module, hidden: int, dtype: torch.dtype) -> tuple[object, torch.Tensor | None]:
    """What the router of a block returns for random states with random weights, and the random bias it selects by.

    The block comes from a `skeleton`, and shows without weights how it calls its router. `hidden` is the width of
    the states; logits come in sizes from a hundredth to ten.
    """
    handed: list[torch.Tensor] = []

    def called(module, given):
        handed.extend(given)
        raise _Called

    handle = router_of(block).register_forward_pre_hook(called)
    with suppress(_Called):
        block(torch.empty(1, PROBED, hidden, device="meta"))
    handle.remove()
    generator = torch.Generator().manual_seed(1)

    def random(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) * tensor.shape[-1] ** -0.5

    router = deepcopy(router_of(block)).to_empty(device="cpu").to(dtype)
    for tensor in filter(torch.is_floating_point, chain(router.parameters(), router.buffers())):
        tensor.copy_(random(tensor))
    size = hidden**0.5 * torch.logspace(-2, 1, PROBED)[:, None]
    states = (random(handed[0].view(PROBED, hidden)) * size).view(handed[0].shape).to(dtype)
    biases = [random(tensor) for tensor in handed[1:] if tensor is not None]
    return router(states, *biases), biases[0] if biases else selection_bias(router)
