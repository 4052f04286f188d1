"""Held-out loss of the embedded demonstration, per document, against a model that knows only token frequencies."""

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from gatebook.inputs.demo.corpora import Document
from gatebook.inputs.demo.training import Losses
from gatebook.inputs.windows import windows

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


@torch.no_grad()
def loss_sums(model: nn.Module, held_out: list[HeldOut], size: int) -> np.ndarray:
    """Sum over a document's predicted tokens of -ln p(token | those before it in its window).

    (document,) float64, nats. Documents are cut into windows of at most `size` tokens as everywhere in the study; the
    first token of a window is not predicted.
    """
    pieces, owners = _cut(held_out, size)
    sums = np.zeros(len(held_out))
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


def unigram_losses(training_tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """-ln p of each token id with p = (count + 1) / (total + vocabulary): (vocabulary,) float64, nats.

    Given a domain's own training text it is what a model knows that has learned how often each token occurs there, and
    nothing about order.
    """
    counts = np.bincount(training_tokens, minlength=vocabulary_size) + 1
    return -np.log(counts / counts.sum())


def unigram_loss_sums(held_out: list[HeldOut], size: int, losses: dict[str, np.ndarray]) -> np.ndarray:
    """Sum over the same predicted tokens of the unigram losses of the document's domain: (document,) float64, nats."""
    pieces, owners = _cut(held_out, size)
    sums = np.zeros(len(held_out))
    for piece, owner in zip(pieces, owners, strict=True):
        sums[owner] += losses[held_out[owner].domain][piece[1:]].sum()
    return sums


def predicted_tokens(held_out: list[HeldOut], size: int) -> np.ndarray:
    """Tokens of each document that are predicted, all but the first of each window: (document,) int64."""
    return np.array([len(document.tokens) - len(windows(len(document.tokens), size)) for document in held_out])


def summary(held_out: list[HeldOut], sums: np.ndarray, predicted: np.ndarray) -> str:
    """Loss per predicted token of each domain, and the mean over domains, in one line."""
    domains = np.array([document.domain for document in held_out])
    means = {name: sums[domains == name].sum() / predicted[domains == name].sum() for name in dict.fromkeys(domains)}
    means["mean"] = np.mean(list(means.values()))
    return ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())


def _cut(held_out: list[HeldOut], size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The windows of all documents, and for each of them the index of its document."""
    pieces = [np.split(document.tokens, windows(len(document.tokens), size)[1:]) for document in held_out]
    owners = np.repeat(np.arange(len(held_out)), [len(parts) for parts in pieces])
    return [part for parts in pieces for part in parts], owners


def dataset(
    held_out: list[HeldOut],
    loss_sums: dict[str, np.ndarray],
    unigram_loss_sums: np.ndarray,
    predicted: np.ndarray,
    history: list[Losses],
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

    Returns
    -------
    xarray.Dataset
        float64 with names and units: `training_loss`, `load_balancing_loss`, `z_loss` (step,); `loss_sum` (checkpoint,
        document); `unigram_loss_sum`, `predicted_tokens`, `domain`, `document_id` (document,).
    """
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
