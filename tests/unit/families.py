"""Tiny random models of every supported family, made from its own config class."""

import torch
import transformers
from torch import nn

from gatebook.routing.models import find_routers, selection_bias

SHARED = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPARSE = {"moe_intermediate_size": 8, "num_experts": 8}
ROUTED = {"moe_intermediate_size": 8, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": None, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
GROUPS = {"n_group": 4, "topk_group": 2}
FAMILIES = {
    "olmoe": ("Olmoe", {"num_experts": 8}),
    "flex_olmo": ("FlexOlmo", {"num_experts": 8}),
    "mixtral": ("Mixtral", {"num_local_experts": 8}),
    "qwen2_moe": ("Qwen2Moe", SPARSE | {"shared_expert_intermediate_size": 8, "mlp_only_layers": [0]}),
    "qwen3_moe": ("Qwen3Moe", SPARSE | {"norm_topk_prob": True, "head_dim": 8}),
    "deepseek_v2": ("DeepseekV2", LATENT | ROUTED),
    "deepseek_v2_groups": (
        "DeepseekV2",
        LATENT | ROUTED | GROUPS | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5},
    ),
    "deepseek_v3": ("DeepseekV3", LATENT | ROUTED | GROUPS),
    "glm4_moe": ("Glm4Moe", ROUTED | {"head_dim": 8}),
    "gpt_oss": ("GptOss", {"num_local_experts": 8, "head_dim": 8, "sliding_window": 8}),
}
FIRST_DENSE = {"qwen2_moe", "deepseek_v2", "deepseek_v2_groups", "deepseek_v3", "glm4_moe"}
"""Families whose tiny model has a dense layer 0."""


def causal_model(family: str, dtype=torch.float32, **changes) -> transformers.PreTrainedModel:
    """A random model of a family with its language-model head, made to be compared with."""
    name, own = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SHARED | own | changes)
    config._experts_implementation = "eager"
    torch.manual_seed(7)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().to(dtype)
    for parameter in model.parameters():  # trained biases are not zero, nor norms one
        parameter.data += 0.05 * torch.randn_like(parameter)
    for router in find_routers(model.model).values():
        if (bias := selection_bias(router)) is not None:
            bias += 0.2 * torch.randn_like(bias)
    return model


def watched(modules: dict[int, nn.Module], model, token_id: torch.Tensor, **options) -> tuple[dict[int, tuple], object]:
    """(input, output) of the given modules by layer for one sequence, seen by hooks; and the model's output."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda _, inputs, output, layer=layer: seen.update({layer: (inputs[0], output)}))
        for layer, module in modules.items()
    ]
    with torch.inference_mode():
        output = model(token_id[None], use_cache=False, **options)
    for handle in handles:
        handle.remove()
    return seen, output
