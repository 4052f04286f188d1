"""Held-out loss of the embedded demonstration, per document, against a model that knows only token frequencies."""

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from moeatlas.demo.corpora import Document
from moeatlas.demo.training import Losses
from moeatlas.inputs import windows

BATCH_WINDOWS = 32


class HeldOut(NamedTuple):
    """A held-out document of a domain: its name and its tokens (int64)."""

    domain: str
    id: str
    tokens: np.ndarray


def tokenize(domain: str, documents: list[Document], tokenizer: PreTrainedTokenizerFast, limit: int) -> list[HeldOut]:
    """The domain's first documents in tokens, until they have `limit` tokens together or there are no more."""
    kept, total = [], 0
    for document in documents:
        if total >= limit:
            break
        kept.append(HeldOut(domain, document.id, np.array(tokenizer(document.text)["input_ids"])))
        total += len(kept[-1].tokens)
    return kept


def cut(documents: list[np.ndarray], size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows of at most `size` tokens, as the study cuts documents, and the index of each one's document."""
    pieces = [np.split(tokens, windows(len(tokens), size)[1:]) for tokens in documents]
    owners = np.repeat(np.arange(len(documents)), [len(parts) for parts in pieces])
    return [part for parts in pieces for part in parts], owners


@torch.no_grad()
def loss_sums(model: nn.Module, documents: list[np.ndarray], size: int) -> np.ndarray:
    """Sum over a document's predicted tokens of -ln p(token | those before it in its window).

    (document,) float64, nats. The first token of a window is not predicted.
    """
    pieces, owners = cut(documents, size)
    sums = np.zeros(len(documents))
    model.eval()
    for start in range(0, len(pieces), BATCH_WINDOWS):
        batch = [torch.from_numpy(piece) for piece in pieces[start : start + BATCH_WINDOWS]]
        ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        targets = nn.utils.rnn.pad_sequence([piece[1:] for piece in batch], batch_first=True, padding_value=-100)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
        np.add.at(sums, owners[start : start + BATCH_WINDOWS], losses.view_as(targets).double().sum(1).numpy())
    model.train()
    return sums


def predicted_tokens(documents: list[np.ndarray], size: int) -> np.ndarray:
    """Tokens of each document that are predicted, all but the first of each window: (document,) int64."""
    return np.array([len(tokens) - len(windows(len(tokens), size)) for tokens in documents])


def unigram_loss_sums(
    documents: list[np.ndarray], size: int, training_tokens: np.ndarray, vocabulary_size: int
) -> np.ndarray:
    """Sum of -ln p(token) over the same predicted tokens, with p = (count + 1) / (total + vocabulary): nats.

    Counts are those of `training_tokens`, the training text of the documents' own domain: what a model knows that has
    learned how often each token occurs there, and nothing about order.
    """
    counts = np.bincount(training_tokens, minlength=vocabulary_size) + 1
    losses = -np.log(counts / counts.sum())
    pieces, owners = cut(documents, size)
    sums = np.zeros(len(documents))
    np.add.at(sums, owners, [losses[piece[1:]].sum() for piece in pieces])
    return sums


def summary(domains: list[str], loss_sums: np.ndarray, predicted: np.ndarray) -> str:
    """Mean loss per predicted token of each domain, and the mean over domains, in one line."""
    names = list(dict.fromkeys(domains))
    members = [np.array(domains) == name for name in names]
    means = [loss_sums[member].sum() / predicted[member].sum() for member in members]
    return ", ".join(
        f"{name} {mean:.2f}" for name, mean in zip([*names, "mean"], [*means, np.mean(means)], strict=True)
    )


def dataset(
    held_out: list[HeldOut],
    loss_sums: dict[str, np.ndarray],
    unigram_loss_sums: np.ndarray,
    predicted: np.ndarray,
    history: list[Losses],
) -> xr.Dataset:
    """Losses of training, by step, and of held-out documents, by checkpoint; float64, with names and units."""
    cross_entropy, balance, z = np.array(history).T
    domains, names = [document.domain for document in held_out], [document.id for document in held_out]

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
            "domain": variable("document", domains, "domain"),
            "document_id": variable("document", names, "document"),
        },
        coords={
            "step": variable("step", np.arange(len(history)), "updates made before the step"),
            "checkpoint": variable("checkpoint", list(loss_sums), "checkpoint"),
        },
    )
