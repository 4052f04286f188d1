"""A small model with weights set by hand, in which two experts carry a behaviour, and prompts that show it."""

import numpy as np
import torch
import transformers

from gatebook.study.pairs import Pairs

HIDDEN, EXPERTS, VOCABULARY = 16, 8, 24
FIRST, SECOND = 3, 5
"""The expert of layer 0 that tells the last token, and that of layer 1 that turns it into the answer."""
ONE, OTHER, RIGHT, WRONG = 2, 3, 10, 11
"""Token ids: those that the last token is, and the answers after them."""


def planted(carried: str = "experts") -> transformers.PreTrainedModel:
    """A model that answers `RIGHT` after the token `ONE` and `WRONG` after `OTHER`.

    carried: "experts", by expert `FIRST` of layer 0, which `SECOND` of layer 1 reads; "embedding", the head reads it
    from the embedding; "nothing", it does not answer. All other experts and attention add noise.
    """
    torch.manual_seed(0)
    config = transformers.OlmoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=EXPERTS,
        num_experts_per_tok=3,
        initializer_range=0.02,
        max_position_embeddings=32,
        pad_token_id=None,
        eos_token_id=1,
    )
    model = transformers.OlmoeForCausalLM(config).eval()
    axes = torch.eye(HIDDEN)
    read, told = axes[2], axes[3]  # what expert `FIRST` writes, and what the head reads
    with torch.no_grad():
        for token, axis in ((ONE, axes[0]), (OTHER, axes[1])):  # beside a part of both, so that norms do not hide it
            model.model.embed_tokens.weight[token] = 2 * axis + 4 * axes[4]
        model.lm_head.weight.mul_(0.1)
        model.lm_head.weight[RIGHT], model.lm_head.weight[WRONG] = told, -told
        if carried == "embedding":
            model.lm_head.weight[RIGHT], model.lm_head.weight[WRONG] = axes[0], axes[1]
        for layer, expert in enumerate((FIRST, SECOND)):
            model.model.layers[layer].mlp.gate.weight[expert] = axes[0] + axes[1]
        if carried == "experts":
            parts = ((0, FIRST, axes[:2], 0.5 * read), (1, SECOND, (2 * read, -2 * read), 2 * told))
            for layer, expert, (yes, no), out in parts:
                experts = model.model.layers[layer].mlp.experts
                experts.gate_up_proj[expert], experts.down_proj[expert] = 0, 0
                half = experts.gate_up_proj.shape[1] // 2
                for unit, (direction, sign) in enumerate(((yes, 1), (no, -1))):
                    experts.gate_up_proj[expert, unit] = experts.gate_up_proj[expert, half + unit] = direction
                    experts.down_proj[expert, :, unit] = sign * out
    return model


def pairs(count: int = 16) -> Pairs:
    """Prompts of three or four tokens that end in `ONE`, and in `OTHER` when corrupted; each is its own source."""
    rng = np.random.default_rng(0)
    lengths = np.array([3, 4] * count)[:count]
    ids = np.zeros((2, count, 4), np.int64)
    for number, length in enumerate(lengths):
        ids[:, number, : length - 1] = rng.integers(12, VOCABULARY, length - 1)
        ids[0, number, length - 1], ids[1, number, length - 1] = ONE, OTHER
    source = np.array([f"{number}" for number in range(count)], dtype=object)
    return Pairs(ids, lengths, np.full(count, RIGHT), np.full(count, WRONG), source)
