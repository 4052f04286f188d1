"""Held-out loss of the embedded demonstration, per document, against a model that knows only token frequencies."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from gatebook.inputs.demo.corpora import Document
from gatebook.inputs.demo.training import Losses

BATCH_DOCUMENTS = 32
OVERLAP = 13
"""Tokens of a run that is looked up in the training text, as in GPT-3 (T. Brown et al., 2020)."""


class HeldOut(NamedTuple):
    """A held-out document of a domain: its name, its cluster, and its first tokens (int64)."""

    domain: str
    id: str
    cluster: str
    tokens: np.ndarray


def tokenize(
    domain: str, documents: list[Document], tokenizer: PreTrainedTokenizerFast, limit: int, size: int
) -> list[HeldOut]:
    """The first `size` tokens of each of the domain's first documents, until these are `limit` tokens together.

    So the loss rests on as many documents, and clusters, as the limit allows.

    Parameters
    ----------
    domain
        Name.
    documents
        Of the domain, held out.
    tokenizer
        That of the embedded model.
    limit
        In tokens; the last document may go beyond it.
    size
        At most so many tokens of each document.

    Returns
    -------
    list of HeldOut
    """
    kept, total = [], 0
    for document in documents:
        if total >= limit:
            break
        tokens = np.array(tokenizer(document.text)["input_ids"][:size])
        kept.append(HeldOut(domain, document.id, document.cluster, tokens))
        total += len(tokens)
    return kept


def overlap(documents: Iterable[np.ndarray], training: np.ndarray) -> float:
    """The share of the documents' runs of 13 tokens that occur in the `training` tokens; documents are token ids.

    Runs are compared by 64-bit sums of their tokens, each times a random odd number of its place.
    """
    factors = np.random.default_rng(0).integers(2**63, size=OVERLAP, dtype=np.uint64) * 2 + 1
    runs = [_runs(tokens, factors) for tokens in documents if len(tokens) >= OVERLAP]
    return float(np.isin(np.concatenate(runs), _runs(training, factors)).mean())


def _runs(tokens: np.ndarray, factors: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64), len(factors))
    return (windows * factors).sum(1, dtype=np.uint64)


@torch.no_grad()
def loss_sums(model: nn.Module, held_out: list[HeldOut]) -> np.ndarray:
    """Sum over a document's predicted tokens, all but the first, of -ln p(token | those before it).

    (document,) float64, nats.
    """
    sums = []
    model.eval()
    for start in range(0, len(held_out), BATCH_DOCUMENTS):
        batch = [torch.from_numpy(document.tokens) for document in held_out[start : start + BATCH_DOCUMENTS]]
        ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        targets = nn.utils.rnn.pad_sequence([tokens[1:] for tokens in batch], batch_first=True, padding_value=-100)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
        sums.append(losses.view_as(targets).double().sum(1).numpy())
    model.train()
    return np.concatenate(sums)


def unigram_losses(training_tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """-ln p of each token id with p = (count + 1) / (total + vocabulary): (vocabulary,) float64, nats.

    Given a domain's own training text it is what a model knows that has learned how often each token occurs there, and
    nothing about order.
    """
    counts = np.bincount(training_tokens, minlength=vocabulary_size) + 1
    return -np.log(counts / counts.sum())


def unigram_loss_sums(held_out: list[HeldOut], losses: dict[str, np.ndarray]) -> np.ndarray:
    """Sum over the same predicted tokens of the unigram losses of the document's domain: (document,) float64, nats."""
    return np.array([losses[document.domain][document.tokens[1:]].sum() for document in held_out])


def predicted_tokens(held_out: list[HeldOut]) -> np.ndarray:
    """Tokens of each document that are predicted, all but the first: (document,) int64."""
    return np.array([len(document.tokens) - 1 for document in held_out])


def summary(held_out: list[HeldOut], sums: np.ndarray, predicted: np.ndarray) -> str:
    """Loss per predicted token of each domain, and the mean over domains, in one line."""
    domains = np.array([document.domain for document in held_out])
    means = {name: sums[domains == name].sum() / predicted[domains == name].sum() for name in dict.fromkeys(domains)}
    means["mean"] = np.mean(list(means.values()))
    return ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())


def dataset(
    held_out: list[HeldOut],
    loss_sums: dict[str, np.ndarray],
    unigram_loss_sums: np.ndarray,
    predicted: np.ndarray,
    history: list[Losses],
    corpora: pd.DataFrame,
) -> xr.Dataset:
    """Losses of training and of held-out documents.

    Parameters
    ----------
    held_out
        The documents.
    loss_sums
        By checkpoint, the loss of each document summed over its predicted tokens, in nats: (document,) float64.
    unigram_loss_sums
        The same of a unigram model of the domain's training text: (document,) float64.
    predicted
        Predicted tokens: (document,) int.
    history
        Losses of every update.
    corpora
        How many `documents` and `clusters` each domain, its index, holds out, and their `overlap`.

    Returns
    -------
    xarray.Dataset
        float64 with names and units: `training_loss`, `load_balancing_loss`, `z_loss` (step,); `loss_sum` (checkpoint,
        document); `unigram_loss_sum`, `predicted_tokens`, `domain`, `document_id` (document,).
    """
    cross_entropy, balance, z = np.array(history).T

    def variable(dimensions, values, long_name: str, units: str = "1") -> tuple:
        return dimensions, values, {"long_name": long_name, "units": units}

    return xr.Dataset(
        {
            "training_loss": variable("step", cross_entropy, "cross-entropy of the training batch", "nat/token"),
            "load_balancing_loss": variable("step", balance, "load-balancing loss, mean over layers (uniform: k)"),
            "z_loss": variable("step", z, "router z-loss, mean over layers"),
            "loss_sum": variable(
                ("checkpoint", "document"),
                np.stack(list(loss_sums.values())),
                "loss summed over predicted tokens",
                "nat",
            ),
            "unigram_loss_sum": variable(
                "document", unigram_loss_sums, "the same of a unigram model of the domain's training text", "nat"
            ),
            "predicted_tokens": variable("document", predicted, "predicted tokens", "token"),
            "domain": variable("document", [document.domain for document in held_out], "domain"),
            "document_id": variable("document", [document.id for document in held_out], "document"),
            "cluster": variable("document", [document.cluster for document in held_out], "independent source"),
            "held_out_documents": variable("corpus", corpora["documents"], "held-out documents"),
            "held_out_clusters": variable("corpus", corpora["clusters"], "independent sources of these"),
            "overlap": variable("corpus", corpora["overlap"], f"share of runs of {OVERLAP} tokens in training text"),
        },
        coords={
            "step": variable("step", np.arange(len(history)), "updates made before the step"),
            "checkpoint": variable("checkpoint", list(loss_sums), "checkpoint"),
            "corpus": variable("corpus", corpora.index, "domain"),
        },
    )
