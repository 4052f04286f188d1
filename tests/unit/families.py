"""Tiny random models of the supported families, made from their own config classes, and the families refused."""

import torch
import transformers
from torch import nn

from gatebook.lists import ROOT
from gatebook.routing.families import routing_rule
from gatebook.routing.patching import refusal
from gatebook.routing.routers import find_blocks, router_of, selection_bias

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
SPARSE_LAYERS = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": None, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
INDEXED = LATENT | {"q_lora_rank": 8, "index_topk": 64, "index_n_heads": 2, "index_head_dim": 8, "head_dim": 4}
GROUPS = {"n_group": 4, "topk_group": 2}
MAMBA = {"mamba_d_state": 4, "mamba_d_conv": 2, "mamba_expand": 1}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 2,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "head_dim": 8,
    "norm_topk_prob": True,
    "shared_expert_intermediate_size": 8,
}
FAMILIES = {
    "olmoe": ("Olmoe", {"num_experts": 8}),
    "flex_olmo": ("FlexOlmo", {"num_experts": 8}),
    "mixtral": ("Mixtral", {"num_local_experts": 8}),
    "qwen2_moe": ("Qwen2Moe", SPARSE | {"shared_expert_intermediate_size": 8, "mlp_only_layers": [0]}),
    "qwen3_moe": ("Qwen3Moe", SPARSE | {"norm_topk_prob": True, "head_dim": 8}),
    "qwen3_next": ("Qwen3Next", SPARSE | LINEAR | {"mlp_only_layers": [0]}),
    "qwen3_5_moe": ("Qwen3_5MoeText", SPARSE | LINEAR),
    "deepseek_v2": ("DeepseekV2", LATENT | ROUTED),
    "deepseek_v2_groups": (
        "DeepseekV2",
        LATENT | ROUTED | GROUPS | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5},
    ),
    "deepseek_v3": ("DeepseekV3", LATENT | ROUTED | GROUPS),
    "deepseek_v32": ("DeepseekV32", INDEXED | ROUTED | GROUPS),
    "glm4_moe": ("Glm4Moe", ROUTED | {"head_dim": 8}),
    "glm4_moe_lite": ("Glm4MoeLite", LATENT | ROUTED | SPARSE_LAYERS),
    "glm_moe_dsa": ("GlmMoeDsa", INDEXED | ROUTED | SPARSE_LAYERS),
    "gpt_oss": ("GptOss", {"num_local_experts": 8, "head_dim": 8, "sliding_window": 8}),
    "minimax_m2": ("MiniMaxM2", {"num_local_experts": 8, "head_dim": 8, "rotary_dim": 4}),
    "granitemoe": ("GraniteMoe", {"num_local_experts": 8}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {
            "num_local_experts": 8,
            "shared_intermediate_size": 8,
            "layer_types": ["mamba", "attention", "mamba"],
            "mamba_n_heads": 2,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
            "position_embedding_type": "rope",
        }
        | MAMBA,
    ),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {
            "moe_num_experts": 8,
            "moe_k": 3,
            "moe_num_shared_experts": 1,
            "moe_intermediate_size": 8,
            "moe_layer_start_index": 1,
        },
    ),
    "dots1": ("Dots1", ROUTED | GROUPS | {"head_dim": 8, "norm_topk_prob": True}),
    "hunyuan_v1_moe": ("HunYuanMoEV1", {"num_experts": 8, "moe_topk": 3, "head_dim": 8}),
    "lfm2_moe": (
        "Lfm2Moe",
        SPARSE | {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1, "use_expert_bias": True},
    ),
    "jamba": (
        "Jamba",
        {
            "num_experts": 8,
            "expert_layer_period": 1,
            "expert_layer_offset": 0,
            "mamba_dt_rank": 4,
        }
        | {"attn_layer_period": 2, "attn_layer_offset": 1}
        | MAMBA,
    ),
    "nemotron_h": (
        "NemotronH",
        ROUTED
        | {
            "layers_block_type": ["mamba", "moe", "moe"],
            "moe_shared_expert_intermediate_size": 8,
            "mamba_num_heads": 2,
            "mamba_head_dim": 8,
            "ssm_state_size": 4,
            "n_groups": 1,
            "conv_kernel": 2,
            "chunk_size": 8,
            "head_dim": 8,
        },
    ),
    "afmoe": (
        "Afmoe",
        SPARSE
        | {
            "num_shared_experts": 1,
            "num_dense_layers": 1,
            "head_dim": 8,
            "route_scale": 1.5,
            "layer_types": ["full_attention"] * 3,
        },
    ),
    "hy_v3": ("HYV3", SPARSE | SPARSE_LAYERS | {"head_dim": 8, "num_shared_experts": 1}),
    "minimax": ("MiniMax", {"num_local_experts": 8, "head_dim": 8, "block_size": 8}),
    "cohere2_moe": ("Cohere2Moe", SPARSE | {"head_dim": 8}),
    "exaone_moe": ("ExaoneMoe", SPARSE | SPARSE_LAYERS | GROUPS | {"num_shared_experts": 1, "head_dim": 8}),
    "aria_text": ("AriaText", {"moe_num_experts": 8, "moe_topk": 3, "moe_num_shared_experts": 1}),
    "dbrx": (
        "Dbrx",
        {
            "d_model": 16,
            "n_heads": 2,
            "n_layers": 3,
            "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8},
            "ffn_config": {"moe_num_experts": 8, "moe_top_k": 3, "ffn_hidden_size": 8},
            "max_seq_len": 64,
            "vocab_size": 97,
            "initializer_range": 0.3,
        },
    ),
}

SEEING = {
    "qwen3_5_moe": ("Qwen3_5Moe", FAMILIES["qwen3_5_moe"][1]),
    "qwen3_vl_moe": ("Qwen3VLMoe", SPARSE | {"head_dim": 8, "mlp_only_layers": [0]}),
}
"""Families whose folders hold a model that also sees, of which the text model is studied."""
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
VISION |= {"patch_size": 4, "spatial_merge_size": 1, "num_position_embeddings": 16, "deepstack_visual_indexes": []}
FIRST_DENSE = {
    "qwen2_moe", "qwen3_next", "deepseek_v2", "deepseek_v2_groups", "deepseek_v3", "deepseek_v32", "glm4_moe",
    "glm4_moe_lite", "glm_moe_dsa", "ernie4_5_moe", "dots1", "lfm2_moe", "nemotron_h", "afmoe", "hy_v3", "exaone_moe",
}  # fmt: skip
"""Families whose tiny model has no experts in layer 0."""
KINDS = ["olmoe", "flex_olmo", "mixtral", "qwen2_moe", "deepseek_v2_groups", "deepseek_v3", "gpt_oss", "minimax_m2"]
KINDS += ["granitemoe", "lfm2_moe", "ernie4_5_moe", "nemotron_h", "dbrx"]
"""One family for every kind of rule and of block: for tests of what does not depend on more."""
REFUSED = {
    "phimoe": ("Phimoe", {"num_local_experts": 8, "num_experts_per_tok": 2}, "follows no rule that is known: "),
    "llama4_text": (
        "Llama4Text",
        {"num_local_experts": 8, "head_dim": 8, "intermediate_size_mlp": 8},
        "does not return logits, weights and ids",
    ),
    "gemma4_text": (
        "Gemma4Text",
        SPARSE | {"top_k_experts": 3, "enable_moe_block": True, "layer_types": ["full_attention"] * 3, "head_dim": 8},
        "its router cannot be tried alone",
    ),
    "doge": ("Doge", {"is_moe": True, "num_experts": 16}, "no layer has a router beside its experts"),
    "jetmoe": ("JetMoe", {"num_local_experts": 4, "kv_channels": 8}, "does not say which one module"),
    "switch_transformers": (
        "SwitchTransformers",
        {"d_model": 16, "d_kv": 8, "d_ff": 8, "num_layers": 2, "num_decoder_layers": 2, "num_experts": 4},
        "does not say which one module",
    ),
    "nllb-moe": (
        "NllbMoe",
        {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "num_experts": 4},
        "does not say which one module",
    ),
}
"""Families that are refused: the class and changes of a tiny config, and what the sentence says."""
WHY = {
    "phimoe": "Phi-3.5-MoE: the weights come from two masked softmaxes (sparsemixer)",
    "llama4_text": "Llama 4: returns no ids, and weights what the experts receive, not what they return",
    "gemma4_text": "Gemma 4: returns probabilities instead of logits, from its own norm of what the experts do not see",
    "doge": "Doge: an expert is a pair of vectors, and the router is the block",
    "jetmoe": "JetMoE: a second router, in attention",
    "switch_transformers": "Switch: encoder and decoder; drops tokens beyond an expert's capacity",
    "nllb-moe": "NLLB-MoE: encoder and decoder; drops tokens beyond an expert's capacity",
}
"""What the README says of each."""
EXAMPLES = {
    "olmoe": "OLMoE-1B-7B", "flex_olmo": "FlexOlmo", "mixtral": "Mixtral 8x7B", "qwen2_moe": "Qwen1.5-MoE-A2.7B",
    "qwen3_moe": "Qwen3-30B-A3B", "qwen3_next": "Qwen3-Next-80B-A3B", "qwen3_5_moe": "Qwen3.5-35B-A3B",
    "qwen3_vl_moe": "Qwen3-VL-30B-A3B", "deepseek_v2": "DeepSeek-V2-Lite", "deepseek_v2_groups": "DeepSeek-V2",
    "deepseek_v3": "DeepSeek-V3, R1", "deepseek_v32": "DeepSeek-V3.2", "glm4_moe": "GLM-4.5",
    "glm4_moe_lite": "GLM-4.7-Flash", "glm_moe_dsa": "GLM-5", "gpt_oss": "gpt-oss-20b", "minimax_m2": "MiniMax-M2",
    "granitemoe": "Granite 3 1B-A400M", "granitemoehybrid": "Granite 4 tiny", "ernie4_5_moe": "ERNIE-4.5-21B-A3B",
    "dots1": "dots.llm1", "hunyuan_v1_moe": "Hunyuan-A13B", "lfm2_moe": "LFM2-8B-A1B", "jamba": "Jamba",
    "nemotron_h": "Nemotron-3-Nano-30B-A3B", "afmoe": "Trinity", "hy_v3": "Hunyuan 3", "minimax": "MiniMax-Text-01",
    "cohere2_moe": "Command A MoE", "exaone_moe": "K-EXAONE", "aria_text": "Aria", "dbrx": "DBRX",
}  # fmt: skip
"""A model of each family."""


def config_of(family: str, **changes) -> transformers.PreTrainedConfig:
    """The config of a tiny model of a family, supported or refused."""
    name, own, *_ = (FAMILIES | REFUSED)[family]
    whole = {"switch_transformers", "nllb-moe", "dbrx"}  # have other names for everything
    config = getattr(transformers, f"{name}Config")(**({} if family in whole else SHARED) | own | changes)
    config._experts_implementation = "eager"
    return config


def causal_model(family: str, dtype=torch.float32, **changes) -> transformers.PreTrainedModel:
    """A random model of a family with its language-model head, made to be compared with."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config_of(family, **changes)).eval().to(dtype)
    for parameter in model.parameters():  # trained biases are not zero, nor norms one
        parameter.data += 0.05 * torch.randn_like(parameter)
    for block in find_blocks(model.base_model).values():
        if (bias := selection_bias(block)) is not None:
            bias.data += 0.2 * torch.randn_like(bias)
    return model


def seeing_model(family: str) -> transformers.PreTrainedModel:
    """A random model of a family that also sees."""
    name, own = SEEING[family]
    config = getattr(transformers, f"{name}Config")(text_config=SHARED | own, vision_config=VISION)
    config._experts_implementation = "eager"
    torch.manual_seed(7)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()


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


def decided(model, token_id: torch.Tensor) -> dict[int, tuple]:
    """What the routers of a model received and decided for one sequence, by layer: (states, (logits, weights, ids)).

    The weights and ids of a router that returns logits alone are those that the experts receive.
    """
    blocks, handed = find_blocks(model.base_model), {}
    handles = [
        block.experts.register_forward_pre_hook(lambda _, given, layer=layer: handed.update({layer: given[:0:-1]}))
        for layer, block in blocks.items()
    ]
    seen, _ = watched({layer: router_of(block) for layer, block in blocks.items()}, model, token_id)
    for handle in handles:
        handle.remove()
    return {
        layer: (states, (output, *handed[layer]) if isinstance(output, torch.Tensor) else output)
        for layer, (states, output) in seen.items()
    }


BEGIN, END = "<!-- families: written by make lists -->", "<!-- end of families -->"


def tables() -> str:
    """The supported families by what their rule is found to be, and the refused ones, as Markdown."""
    kinds: dict[tuple[str, str, str, str], list[str]] = {}
    for family in EXAMPLES:
        config = seeing_model(family).config.get_text_config() if family in SEEING else config_of(family)
        rule = routing_rule(config)
        selected = "score plus a trained bias" if rule.bias else "score"
        weights = "score, divided by their sum" if rule.normalised else "score"
        if rule.weighting != "scores":
            selected, weights = "logit", rule.weighting
        shared = " ⁺" if rule.shared_experts else ""
        grouped = " ᵍ" if rule.groups > 1 else ""
        name = f"`{family.removesuffix('_groups')}` ({EXAMPLES[family]}){shared}{grouped}"
        changed = "no: no language-model head" if refusal(config) else "yes"
        kinds.setdefault((rule.scores, selected, weights, changed), []).append(name)
    lines = ["| scores | top k by | routing weights | experts can be changed | `model_type` (a model of it) |"]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {' | '.join(kind)} | {', '.join(sorted(names))} |" for kind, names in kinds.items()]
    lines += ["", "| refused `model_type` | why |", "|---|---|", *(f"| `{family}` | {WHY[family]} |" for family in WHY)]
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """The text of the README with `tables` between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
