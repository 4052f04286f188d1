"""Held-out loss of the embedded demonstration, per document, against a model that knows only token frequencies."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn
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
    """Sum over a document's predicted tokens of -ln p(token | those before it in its window): (document,) float64, nats.

    The first token of a window is not predicted.
    """
    pieces, owners = cut(documents, size)
    sums = np.zeros(len(documents))
    model.eval()
    for start in range(0, len(pieces), BATCH_WINDOWS):
        batch = [torch.from_numpy(piece) for piece in pieces[start : start + BATCH_WINDOWS]]
        ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        targets = nn.utils.rnn.pad_sequence([piece[1:] for piece in batch], batch_first=True, padding_value=-100)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
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
    """Losses of training (step) and of held-out documents (checkpoint, document), as float64 with units."""
    curves = {
        f"{name}_loss" if name != "cross_entropy" else "training_loss": values
        for name, values in zip(Losses._fields, np.array(history).reshape(-1, len(Losses._fields)).T, strict=True)
    }
    long_names = {
        "training_loss": ("cross-entropy of the training batch before the update", "nat/token"),
        "load_balancing_loss": ("load-balancing loss, mean over layers (k under uniform routing)", "1"),
        "z_loss": ("router z-loss, mean over layers", "1"),
    }
    variables = {
        name: ("step", values, dict(zip(("long_name", "units"), long_names[name], strict=True)))
        for name, values in curves.items()
    }
    return xr.Dataset(
        variables
        | {
            "loss_sum": (
                ("checkpoint", "document"),
                np.stack(list(loss_sums.values())),
                {"long_name": "sum of the losses of the document's predicted tokens", "units": "nat"},
            ),
            "unigram_loss_sum": (
                "document",
                unigram_loss_sums,
                {"long_name": "the same under the token frequencies of the domain's training text", "units": "nat"},
            ),
            "predicted_tokens": ("document", predicted, {"long_name": "predicted tokens", "units": "token"}),
            "domain": ("document", [document.domain for document in held_out], {"long_name": "domain", "units": "1"}),
            "document_id": (
                "document",
                [document.id for document in held_out],
                {"long_name": "document", "units": "1"},
            ),
        },
        coords={
            "step": ("step", np.arange(len(history)), {"long_name": "updates made before", "units": "1"}),
            "checkpoint": ("checkpoint", list(loss_sums), {"long_name": "checkpoint", "units": "1"}),
        },
    )
