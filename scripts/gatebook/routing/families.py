"""The model families whose routing rule is known: what their config means for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
