"""Routers: where a model has them, how its blocks call them, and the bias that they select by."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from itertools import chain

import torch
import transformers
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoModel

from gatebook.problem import Problem
from gatebook.routing.rule import RoutingRule

LAYERS = ("layers", "blocks")
"""Names that a base model's list of layers has."""
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


def layers_name(model: transformers.PreTrainedModel) -> str | None:
    """The name of a base model's list of layers; None if it has none."""
    return next((name for name in LAYERS if hasattr(model, name)), None)


def layers_of(model: transformers.PreTrainedModel) -> nn.ModuleList:
    """The layers of a base model that has such a list."""
    return getattr(model, layers_name(model))


def find_routers(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """Router modules by layer index; dense layers have none, so indices may start above 0.

    A `Problem` for a model of which transformers does not say what a router is.
    """
    recorder = (type(model)._can_record_outputs or {}).get("router_logits")
    if not hasattr(recorder, "target_class") or layers_name(model) is None:
        raise unsupported(model.config, "transformers does not say which one module of a layer is its router")
    return {
        layer: module
        for layer, block in enumerate(layers_of(model))
        for module in block.modules()
        if isinstance(module, recorder.target_class)
    }


def find_blocks(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """Mixture-of-Experts blocks, which hold a router and its `experts`, by layer index."""
    return {
        layer: module
        for layer, router in find_routers(model).items()
        for module in layers_of(model)[layer].modules()
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
    for name, module in layers_of(model)[layer].named_modules():
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


def watch(block: nn.Module, keep: Callable[[torch.Tensor, tuple], object]) -> list[RemovableHandle]:
    """Call `keep` with what a block's router receives and what it decides, which is (logits, weights, ids).

    The weights and ids of a router that returns logits alone are those that the block hands its experts, which are then
    about to compute. Returned are the hooks.
    """
    alone: list[torch.Tensor] = []

    def returned(module, given, output):
        if isinstance(output, torch.Tensor):
            alone[:] = given[0], output
        else:
            keep(given[0], output)

    def handed(module, given):
        if alone:
            (states, logits), (_, selected, weights) = alone, given
            alone.clear()
            keep(states, (logits, weights, selected))

    return [router_of(block).register_forward_hook(returned), block.experts.register_forward_pre_hook(handed)]


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
    router = _with_random_weights(router_of(block), dtype, generator)
    states = _random_states(hidden, dtype, generator).view(handed[0].shape)
    biases = [_random(tensor.shape, generator) for tensor in handed[1:] if tensor is not None]
    return router(states, *biases), biases[0] if biases else selection_bias(router)


@torch.no_grad()
def probe_sum(block: nn.Module, hidden: int, experts: int, dtype: torch.dtype) -> tuple[int, nn.Module, torch.Tensor]:
    """A block with random weights that can be called however large its experts are, and random states (token, hidden).

    The block comes from a `skeleton`. Each of its experts is replaced by one that multiplies by a random vector. The
    number is that of the experts that the block selects for each token.
    """
    generator, handed = torch.Generator().manual_seed(1), []
    block = deepcopy(block)
    block.experts = nn.Identity()
    block = _with_random_weights(block, dtype, generator)
    block.experts = _SimpleExperts(_random((experts, hidden), generator).to(dtype))
    states = _random_states(hidden, dtype, generator)
    handles = watch(block, lambda _, decision: handed.append(decision[2].shape[1]))
    _output(block, states)
    for handle in handles:
        handle.remove()
    return handed[0], block, states


class _SimpleExperts(nn.Module):
    """Experts that each multiply by a vector of their own: (expert, hidden)."""

    def __init__(self, vectors: torch.Tensor):
        super().__init__()
        self.vectors = vectors

    def forward(self, states: torch.Tensor, selected: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        single = self.vectors[selected] * states.reshape(-1, 1, states.shape[-1])
        return (single * weights[..., None]).sum(dim=1).to(states.dtype).view(states.shape)


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Gaussian numbers whose products with unit rows have unit size."""
    return torch.randn(shape, generator=generator) * shape[-1] ** -0.5


def _random_states(hidden: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """States (token, hidden) whose products with random weights have sizes from a hundredth to ten."""
    size = hidden**0.5 * torch.logspace(-2, 1, PROBED)[:, None]
    return (_random((PROBED, hidden), generator) * size).to(dtype)


def _with_random_weights(module: nn.Module, dtype: torch.dtype, generator: torch.Generator) -> nn.Module:
    """A copy of a module without weights that has random ones."""
    module = deepcopy(module).to_empty(device="cpu").to(dtype)
    for tensor in filter(torch.is_floating_point, chain(module.parameters(), module.buffers())):
        tensor.copy_(_random(tensor.shape, generator))
    return module


def expert_outputs(block: nn.Module, states: torch.Tensor, selected: torch.Tensor) -> torch.Tensor:
    """The output of each selected expert alone, not weighted: (token, rank, hidden).

    `states` (token, hidden) is what the block's router received, `selected` (token, rank) int64 the experts. Weighted
    and summed over ranks they are the block's output, less that of its shared experts.
    """
    one = torch.ones(selected.numel(), 1, dtype=states.dtype, device=states.device)
    alone = block.experts(states.repeat_interleave(selected.shape[1], dim=0), selected.reshape(-1, 1), one)
    return alone.view(*selected.shape, -1)


@torch.no_grad()
def sum_difference(rule: RoutingRule, block: nn.Module, states: torch.Tensor) -> str | None:
    """Where the weighted sum of single experts' outputs differs from a block's output, in words.

    Experts and weights are those that the rule gives for the logits of the block's router. What the block returns
    without its experts, such as the output of shared ones, is added. `states` (token, hidden) is what it receives.
    None if nothing differs beyond the rounding of the outputs, their weights and their sum.
    """
    seen: list[torch.Tensor] = []
    handles = watch(block, lambda _, decision: seen.append(decision[0]))
    output = _output(block, states)
    handles.append(block.experts.register_forward_hook(lambda module, given, output: torch.zeros_like(output)))
    rest = _output(block, states)
    for handle in handles:
        handle.remove()
    selected = rule.select(seen[0], selection_bias(block))
    weighted = expert_outputs(block, states, selected).float() * rule.weights(seen[0], selected)[..., None].float()
    difference = (weighted.sum(dim=1) + rest - output).abs().amax(dim=-1)
    rounding = (rule.top_k + 2) * torch.finfo(states.dtype).eps
    rounding += states.shape[1] ** 0.5 * torch.finfo(torch.float32).eps  # of sums over the width
    size = (weighted.abs().sum(dim=1) + rest.abs()).amax(dim=-1)
    if bool((difference <= rounding * size).all()):
        return None
    token = int((difference / size).argmax())
    return (
        f"the block's output for token {token} differs by {difference[token] / size[token]:.2g} of its size from the "
        f"weighted sum of its experts' outputs, and rounding allows {rounding:.2g}"
    )


def check_sum(rule: RoutingRule, layer: int, block: nn.Module) -> None:
    """A `Problem` if the weighted sum of experts' outputs is not the output of a layer's block for random states."""
    rows, generator = rows_of(router_of(block)), torch.Generator().manual_seed(1)
    states = _random_states(rows.shape[1], rows.dtype, generator)[:: PROBED // 16].to(rows.device)
    if difference := sum_difference(rule, block, states):
        raise Problem(
            f"layer {layer}: the block did not follow the rule of the model's family ({rule.as_json()}), {difference}; "
            "its records cannot be trusted: report this model."
        )


def _output(block: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """What a block returns for states (token, hidden): float32 of the same shape."""
    output = block(states[None])
    return (output[0] if isinstance(output, tuple) else output).reshape(states.shape).float()
