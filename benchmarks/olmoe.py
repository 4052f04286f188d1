"""Random-weight OLMoE models and random tokens: nothing is downloaded; time and size hardly depend on the weights."""

import numpy as np
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

SIZES = {
    "full": {"hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
             "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 50304},
    "mid": {"hidden_size": 512, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 3072},
    "demo": {"hidden_size": 96, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_experts": 32, "num_experts_per_tok": 4, "vocab_size": 4096},
    "tiny": {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
             "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 512},
}  # fmt: skip
"""full: OLMoE-1B-7B; mid: with the vocabulary that gives the output head the same share of the work as in the full
size (9 %); demo: the model of the embedded study; tiny: as many experts as the full size, and hardly any work."""


def build(size: str, dtype: torch.dtype, device: str = "cpu", experts: str = "eager") -> OlmoeForCausalLM:
    """A model of one of `SIZES` with normal weights of standard deviation 0.02, made on `device`."""
    torch.manual_seed(0)
    config = OlmoeConfig(
        **SIZES[size], max_position_embeddings=4096, pad_token_id=None, bos_token_id=None, eos_token_id=0
    )
    config._experts_implementation, config._attn_implementation, config.dtype = experts, "sdpa", dtype
    with torch.device(device):
        model = OlmoeForCausalLM._from_config(config, dtype=dtype)
    return model.eval()


def operations_per_token(size: str, window: int, head: bool = True, last_experts: bool = True) -> float:
    """Floating-point operations of a forward pass per token, in windows of `window` tokens.

    `head`: with the output head; `last_experts`: with the experts of the last layer.
    """
    c = SIZES[size]
    width, layers = c["hidden_size"], c["num_hidden_layers"]
    attention = 8 * width**2 + 2 * width * window  # four projections; scores and values of half the window on average
    experts = 6 * c["num_experts_per_tok"] * width * c["intermediate_size"]
    router = 2 * width * c["num_experts"]
    total = layers * (attention + experts + router)
    return total + head * 2 * width * c["vocab_size"] - (not last_experts) * experts


def documents(size: str, tokens: int, typical: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Random token ids int32 (token,), and where windows start (window,): log-normal lengths around `typical`."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(typical), 0.5, 2 + 4 * tokens // typical), 2, longest).astype(np.int64)
    starts = np.append(0, np.cumsum(lengths))
    if starts[-1] < tokens:
        raise ValueError(f"{tokens} tokens need more windows of about {typical} tokens")
    return rng.integers(1, SIZES[size]["vocab_size"], tokens, dtype=np.int32), starts[starts < tokens]
