"""The model families whose routing rule is known: what their config means for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatebook.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES = {
    "olmoe": lambda config: {"normalised": config.norm_topk_prob},
    "flex_olmo": lambda config: {"normalised": config.norm_topk_prob},
    "mixtral": lambda config: {"normalised": True, "cast": False},
    "qwen2_moe": lambda config: {
        "normalised": config.norm_topk_prob,
        "shared_experts": int(config.shared_expert_intermediate_size > 0),
    },
    "qwen3_moe": lambda config: {"normalised": config.norm_topk_prob},
    "deepseek_v2": lambda config: (
        {
            "normalised": False,  # whatever norm_topk_prob says: transformers does not read it
            "cast": False,
            "scale": config.routed_scaling_factor,
            "sorted": False,
            "shared_experts": config.n_shared_experts or 0,
        }
        | (_groups(config, "best") if config.topk_method == "group_limited_greedy" else {})
    ),
    "deepseek_v3": lambda config: _sigmoid(config),
    "glm4_moe": lambda config: _sigmoid(config),
    "gpt_oss": lambda config: {"weighting": "softmax of the selected logits", "normalised": True},
}
"""Supported `model_type`s: what their config says of the fields of `RoutingRule` (source: the model code in
transformers)."""

SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings", "num_experts_per_tok")


def check(config: PreTrainedConfig) -> None:
    """A `Problem` for a family that is not supported, and for sizes of a model that cannot be."""
    family = config.model_type
    if family not in FAMILIES:
        raise Problem(
            f"model_type {family!r} ({config.name_or_path}) is not supported: the supported families are "
            f"{', '.join(sorted(FAMILIES))}; CONTRIBUTING.md says how to add one."
        )
    sizes = {name: getattr(config, name) for name in SIZES} | {"num_experts": experts(config)}
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise Problem(
                f"{config.name_or_path}/config.json: {name} is {value!r}: write a whole number of at least 1."
            )
    if sizes["num_experts_per_tok"] > sizes["num_experts"]:
        raise Problem(
            f"{config.name_or_path}/config.json: num_experts_per_tok is {sizes['num_experts_per_tok']}, more than the "
            f"{sizes['num_experts']} experts: lower it."
        )


def experts(config: PreTrainedConfig) -> int:
    """The number of experts of a layer, which families name in two ways."""
    named = getattr(config, "num_experts", None)
    return config.num_local_experts if named is None else named


def _groups(config: PreTrainedConfig, group_score: str) -> dict:
    return {"groups": config.n_group, "kept_groups": config.topk_group, "group_score": group_score}


def _sigmoid(config: PreTrainedConfig) -> dict:
    """The rule that DeepSeek-V3 introduced: sigmoid scores, a trained bias for the selection, groups, scaling."""
    return _groups(config, "two best") | {
        "scores": "sigmoid",
        "bias": True,
        "normalised": config.norm_topk_prob,
        "scale": config.routed_scaling_factor,
        "sorted": False,
        "cast": False,
        "shared_experts": config.n_shared_experts,
    }
