"""Families: the routing rule of a model, found by trying its router, and which models have none that is known."""

from collections.abc import Iterator
from itertools import product

import torch
import transformers
from torch import nn

from gatebook.routing.routers import find_blocks, probe, router_of, skeleton, unsupported
from gatebook.routing.rule import RoutingRule

DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes in which a rule must give what the router returns, bit for bit."""
SCALES = ("routed_scaling_factor", "router_scaling_factor", "route_scale")
"""Names that a router's attribute has by which weights are multiplied."""
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
"""Names that a config has for how many experts every token passes through."""
SUMS = ({"normalised": False}, {"normalised": True}, {"normalised": True, "epsilon": 1e-6})
"""What may become of the scores of the selected experts."""

_settled: dict[str, RoutingRule] = {}


def routing_rule(config: transformers.PreTrainedConfig) -> RoutingRule:
    """The routing rule of a model's config: what its router does with random weights, bit for bit.

    A `Problem` for a model whose router follows none that is known.
    """
    key = f"{type(config)} {config.to_json_string(use_diff=False)}"
    if key not in _settled:
        _settled[key] = _find(config)
    return _settled[key]


def _find(config: transformers.PreTrainedConfig) -> RoutingRule:
    blocks = find_blocks(model := skeleton(config))
    if not blocks:
        raise unsupported(config, "no layer has a router beside its experts")
    layer, block = next(iter(blocks.items()))
    try:
        tried = [probe(block, config.hidden_size, dtype) for dtype in DTYPES]
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise unsupported(config, f"its router cannot be tried alone ({str(error).splitlines()[0]})") from error
    trials = [(*_triple(config, output), bias) for output, bias in tried]
    logits, _, selected, bias = trials[0]
    family, shared = config.model_type, _shared_experts(config, model.layers[layer])
    nearest = {}
    for settings in candidates(router_of(block), bias is not None):
        rule = RoutingRule(family, logits.shape[1], selected.shape[1], shared_experts=shared, **settings)
        differences = [difference for trial in trials if (difference := rule.difference(*trial))]
        if not differences:
            return rule
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
