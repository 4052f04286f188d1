"""Families: the routing rule of a model, found by trying its router, and which models have none that is known."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
import transformers
from torch import nn

from gatebook.routing.routers import (
    find_blocks,
    layers_of,
    probe,
    probe_sum,
    router_of,
    selection_bias,
    skeleton,
    sum_difference,
    unsupported,
)
from gatebook.routing.rule import RoutingRule

DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes in which a rule must give what the router returns, bit for bit."""
SCALES = ("routed_scaling_factor", "router_scaling_factor", "route_scale")
"""Names that a router's attribute has by which weights are multiplied."""
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
"""Names that a config has for how many experts every token passes through."""
SUMS = ({"normalised": False}, {"normalised": True}, {"normalised": True, "epsilon": 1e-6})
"""What may become of the scores of the selected experts."""


class Trial(NamedTuple):
    """A router tried in one dtype.

    Whether it gives logits alone, its sizes, whether it has a bias, and where a rule differs from it, in words.
    """

    logits_alone: bool
    experts: int
    top_k: int
    bias: bool
    difference: Callable[[RoutingRule], str | None]


_settled: dict[str, tuple[RoutingRule, bool]] = {}


def routing_rule(config: transformers.PreTrainedConfig) -> RoutingRule:
    """The routing rule of a model's config: what its router does with random weights, bit for bit.

    Of a router that returns logits alone it is the one by which the weighted sum of the experts' outputs is the block's
    output, within rounding.

    A `Problem` for a model whose router follows none that is known.
    """
    return _found(config)[0]


def gives_logits_alone(config: transformers.PreTrainedConfig) -> bool:
    """Whether the routers of a model's config return logits alone, as those of DBRX do."""
    return _found(config)[1]


def _found(config: transformers.PreTrainedConfig) -> tuple[RoutingRule, bool]:
    key = f"{type(config)} {config.to_json_string(use_diff=False)}"
    if key not in _settled:
        _settled[key] = _find(config)
    return _settled[key]


def _find(config: transformers.PreTrainedConfig) -> tuple[RoutingRule, bool]:
    blocks = find_blocks(model := skeleton(config))
    if not blocks:
        raise unsupported(config, "no layer has a router beside its experts")
    layer, block = next(iter(blocks.items()))
    try:
        trials = [_try(config, block, dtype) for dtype in DTYPES]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise unsupported(config, f"its router cannot be tried alone ({str(error).splitlines()[0]})") from error
    logits_alone, experts, top_k, bias, _ = trials[0]
    shared = _shared_experts(config, layers_of(model)[layer])
    nearest = {}
    for settings in candidates(router_of(block), bias):
        rule = RoutingRule(config.model_type, experts, top_k, shared_experts=shared, **settings)
        differences = [difference for trial in trials if (difference := trial.difference(rule))]
        if not differences:
            return rule, logits_alone
        nearest.setdefault((len(differences), differences[0].startswith("experts")), differences[0])
    raise unsupported(
        config, f"its router, given random weights, follows no rule that is known: {nearest[min(nearest)]}"
    )


def candidates(router: nn.Module, bias: bool) -> Iterator[dict]:
    """Settings of `RoutingRule` that a router may follow, the simplest first; `bias` says whether it has one."""
    groups = [{}]
    if (number := getattr(router, "num_group", None) or 1) > 1:
        grouped = {"groups": number, "kept_groups": router.topk_group}
        groups += [grouped | {"group_score": score} for score in ("best", "two best")]
    scales = [1.0, *(float(getattr(router, name)) for name in SCALES if getattr(router, name, 1.0) != 1.0)]
    weightings = [{"scores": scores} | sums for scores in ("softmax", "sigmoid") for sums in SUMS]
    weightings.append({"weighting": "softmax of the selected logits", "normalised": True})
    for precision, biased, grouping, scale, weighting in product(
        ("float32", "logits"), (False, True) if bias else (False,), groups, scales, weightings
    ):
        yield {"precision": precision, "bias": biased, "scale": scale} | grouping | weighting


def _try(config: transformers.PreTrainedConfig, block: nn.Module, dtype: torch.dtype) -> Trial:
    """The router of a block, tried in a dtype.

    A rule is compared with the weights and ids that the router returns; if it returns logits alone, with what the block
    returns.
    """
    output, bias = probe(block, config.hidden_size, dtype)
    if isinstance(output, torch.Tensor) and output.dim() == 2:
        top_k, block, states = probe_sum(block, config.hidden_size, output.shape[1], dtype)
        difference = partial(sum_difference, block=block, states=states)
        return Trial(True, output.shape[1], top_k, selection_bias(block) is not None, difference)
    logits, weights, selected = _triple(config, output)

    def difference(rule: RoutingRule) -> str | None:
        return rule.difference(logits, weights, selected, bias)

    return Trial(False, logits.shape[1], selected.shape[1], bias is not None, difference)


def _triple(config: transformers.PreTrainedConfig, output: object) -> tuple:
    """What a router returned, if that is (logits, weights, ids): (token, expert), (token, rank) and (token, rank)."""
    if isinstance(output, tuple) and len(output) == 3:
        logits, weights, selected = output
        if logits.dim() == 2 and weights.shape == selected.shape and selected.dtype == torch.int64:
            return output
    raise unsupported(config, "its router does not return logits, weights and ids")


def _shared_experts(config: transformers.PreTrainedConfig, layer: nn.Module) -> int:
    """How many experts every token passes through in a layer; one if the config does not count those that it has."""
    if not any("shared" in name for name, _ in layer.named_parameters()):
        return 0
    return next((number for name in SHARED if isinstance(number := getattr(config, name, None), int) and number), 1)
