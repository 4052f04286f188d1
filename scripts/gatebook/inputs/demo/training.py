"""Training of the embedded demonstration: a small OLMoE, the same to the last bit for the same seed and threads."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from gatebook.inputs.demo import optimizers
from gatebook.problem import Problem
from gatebook.run import job

HEAD_ROWS = 416


class Losses(NamedTuple):
    """The losses of one training step, before its update: nats per token, and the two router losses."""

    cross_entropy: float
    load_balancing: float
    z: float


def use_deterministic_torch(threads: int) -> None:
    """Deterministic algorithms and a fixed number of threads, so that sums keep their order on any number of cores.

    Memory is not filled before use, as deterministic torch would do to show reads of unset values: it costs 4 %.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def build_model(settings: dict[str, int], tokenizer: PreTrainedTokenizerFast, seed: int) -> OlmoeForCausalLM:
    """A randomly initialised OLMoE in float32.

    Settings: `hidden_size`, `layers`, `heads`, `experts` and `experts_per_token` of each layer, `expert_size` (hidden
    width of an expert), `context` (longest sequence in tokens).
    """
    torch.manual_seed(seed)
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings["hidden_size"],
        intermediate_size=settings["expert_size"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        num_experts=settings["experts"],
        num_experts_per_tok=settings["experts_per_token"],
        max_position_embeddings=settings["context"],
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return OlmoeForCausalLM._from_config(config, attn_implementation="sdpa", experts_implementation="grouped_mm")


def count_parameters(model: OlmoeForCausalLM) -> tuple[int, int]:
    """(all parameters, those that one token uses): of E experts in each layer a token uses k."""
    total = sum(parameter.numel() for parameter in model.parameters())
    experts = sum(parameter.numel() for layer in model.model.layers for parameter in layer.mlp.experts.parameters())
    unused = experts * (1 - model.config.num_experts_per_tok / model.config.num_experts)
    return total, total - round(unused)


def token_stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The tokens of all texts one after another, int64, with the end-of-text token after each."""
    return np.concatenate([[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]).astype(np.int64)


def batches(streams: list[np.ndarray], settings: dict) -> Iterator[torch.Tensor]:
    """Batches (`batch_size`, `sequence_length`) int64 without end, of sequences cut from token streams.

    Sequences are taken from the streams in turn, from each in an order shuffled by `seed` and repeated when it ends.
    """
    generator = np.random.default_rng(settings["seed"])
    length = settings["sequence_length"]
    sequences = [stream[: len(stream) // length * length].reshape(-1, length) for stream in streams]
    shuffled = [itertools.cycle(generator.permutation(rows)) for rows in sequences]
    turns = itertools.chain.from_iterable(zip(*shuffled, strict=True))
    while True:
        yield torch.from_numpy(np.stack(list(itertools.islice(turns, settings["batch_size"]))))


def load_balancing_loss(router_logits: torch.Tensor, experts_per_token: int) -> torch.Tensor:
    """E sum_e f_e P_e of one layer, with `router_logits` (token, E).

    f_e is the share of tokens that select expert e among their k (it sums to k over experts), P_e the mean probability
    of expert e. Uniform routing gives k, the convention of transformers' OLMoE. Source: W. Fedus et al., "Switch
    Transformers" (2022); N. Muennighoff et al., "OLMoE" (2025).
    """
    experts = router_logits.shape[-1]
    probabilities = router_logits.softmax(-1)
    selected = probabilities.topk(experts_per_token, dim=-1).indices
    share = functional.one_hot(selected, experts).sum(1).to(probabilities.dtype).mean(0)
    return experts * (share * probabilities.mean(0)).sum()


def z_loss(router_logits: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of (ln sum_e exp z_e)^2 of one layer, with `router_logits` z (token, E).

    Source: B. Zoph et al., "ST-MoE" (2022); N. Muennighoff et al., "OLMoE" (2025).
    """
    return router_logits.logsumexp(-1).square().mean()


def backward(model: OlmoeForCausalLM, batch: torch.Tensor, load_balancing_weight: float, z_weight: float) -> Losses:
    """Add the gradients of one batch (sequence, token) to the model's parameters and return its losses.

    Minimised is the mean cross-entropy of the next token, plus the two weighted router losses, each a mean over layers.
    Output head and cross-entropy run over a few hundred rows at a time, so that the logits stay in the processor's
    cache; their gradient with respect to the hidden states is then carried on through the model.
    """
    outputs = model.model(input_ids=batch, output_router_logits=True, use_cache=False)
    hidden = outputs.last_hidden_state[:, :-1].flatten(0, 1)
    targets = batch[:, 1:].flatten()
    gradients, cross_entropy = [], 0.0
    for rows, labels in zip(hidden.detach().split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True):
        rows.requires_grad_()
        loss = functional.cross_entropy(model.lm_head(rows), labels, reduction="sum") / len(targets)
        loss.backward()
        gradients.append(rows.grad)
        cross_entropy += loss.item()
    k = model.config.num_experts_per_tok
    balance = torch.stack([load_balancing_loss(logits, k) for logits in outputs.router_logits]).mean()
    z = torch.stack([z_loss(logits) for logits in outputs.router_logits]).mean()
    torch.autograd.backward([hidden, load_balancing_weight * balance + z_weight * z], [torch.cat(gradients), None])
    return Losses(cross_entropy, balance.item(), z.item())


def train(
    model: OlmoeForCausalLM, sequences: Iterator[torch.Tensor], settings: dict, history: list[Losses]
) -> Iterator[int]:
    """Train the model in place; yield the number of updates made whenever it is one of the settings' checkpoints.

    Checkpoint 0 is the model before training. The losses of each step are appended to `history`. Settings: `steps`,
    `checkpoints`, `learning_rate`, and the weights `load_balancing_loss` and `z_loss`. Gradients are clipped to norm 1.
    Raises `Problem` when a loss is no longer a finite number.
    """
    steps, peak = settings["steps"], settings["learning_rate"]
    optimisers = optimizers.build(model, peak)
    with job.progress(total=steps, unit="step", description="training") as bar:
        for step in range(steps + 1):
            if step in settings["checkpoints"]:
                yield step
            if step == steps:
                return
            optimizers.set_learning_rate(optimisers, peak * optimizers.schedule(step, steps))
            losses = backward(model, next(sequences), settings["load_balancing_loss"], settings["z_loss"])
            if not np.isfinite(losses).all():
                raise Problem(
                    f"Training diverged at step {step} ({losses}): lower demo.training.learning_rate, now {peak}."
                )
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            history.append(losses)
            bar.set_postfix(loss=f"{losses.cross_entropy:.3f}", refresh=False)
            bar.update()
