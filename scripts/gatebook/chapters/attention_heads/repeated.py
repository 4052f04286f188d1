"""Repeated random tokens: sequences of two halves, what a model loses on them, and where its heads look."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import transformers

from gatebook.chapters.attention_heads import SCORES
from gatebook.problem import Problem
from gatebook.routing.heads import Attention, plainly, watching

ARRANGEMENTS = ("repeated", "shuffled", "new")
"""What the second half is: the first one again; in an order in which no token follows the same one; other tokens."""


@dataclass(frozen=True)
class Sequences:
    """Sequences of random tokens, all of which differ within a half.

    ids: by arrangement, (sequence, position) int64; start: position of the first random token, before which there may
    be the token that begins texts; length: tokens of each half.
    """

    ids: Mapping[str, np.ndarray]
    start: int
    length: int


def sequences(tokens: np.ndarray, begin: list[int], *, count: int, length: int, seed: int) -> Sequences:
    """Draw random sequences.

    Parameters
    ----------
    tokens
        The ids to draw from, (token,) int64.
    begin
        Ids before the first half.
    count, length, seed
        Number of sequences, tokens of each half, and seed.

    Returns
    -------
    Sequences

    Raises
    ------
    Problem
        If there are too few ids for two different halves.
    """
    if len(tokens) < 2 * length:
        raise Problem(
            f"config: attention_heads.length: the tokenizer has {len(tokens)} ordinary tokens, and two halves of "
            f"{length} different ones need {2 * length}: lower it."
        )
    rng, found = np.random.default_rng(seed), {name: [] for name in ARRANGEMENTS}
    for _ in range(count):
        first, other = rng.choice(tokens, 2 * length, replace=False).reshape(2, length)
        for name, second in zip(ARRANGEMENTS, (first, first[_disorder(length, rng)], other), strict=True):
            found[name].append(np.concatenate([begin, first, second]).astype(np.int64))
    return Sequences({name: np.stack(rows) for name, rows in found.items()}, len(begin), length)


def _disorder(length: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of 0..length - 1 that does not begin with 0 and has no i followed by i + 1: (length,)."""
    while True:
        order = rng.permutation(length)
        if order[0] and (np.diff(order) != 1).all():
            return order


def at_distance(pattern: torch.Tensor, distance: int, first: int) -> torch.Tensor:
    """Attention to the token so far before, mean over the queries from position `first` on: (window, head).

    pattern: (window, head, query, key).
    """
    return pattern.diagonal(-distance, dim1=-2, dim2=-1)[..., first - distance :].mean(dim=-1)


def spread_evenly(pattern: torch.Tensor, first: int) -> torch.Tensor:
    """Attention to any token up to the query's own, mean over these and queries from `first` on: (window, head)."""
    known = torch.arange(1, pattern.shape[-1] + 1, device=pattern.device)
    return (pattern.sum(dim=-1) / known)[..., first:].mean(dim=-1)


def head_scores(pattern: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """The `SCORES` of heads on sequences: (window, score, head), from their pattern (window, head, query, key)."""
    second = start + length
    previous = at_distance(pattern, 1, start + 1)
    return torch.stack([previous, *(at_distance(pattern, far, second) for far in (length, length - 1))], dim=1)


class Found(NamedTuple):
    """What sequences show: losses in nats, "first" and by arrangement (sequence,); scores and null (sequence, score,
    layer, head), all float64; layers: the numbers of those that have heads."""

    losses: dict[str, np.ndarray]
    scores: np.ndarray
    null: np.ndarray
    layers: list[int]


@torch.inference_mode()
def study(
    model: transformers.PreTrainedModel,
    attentions: Mapping[int, Attention],
    drawn: Sequences,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda sequences: None,
) -> Found:
    """Run a model on sequences.

    Parameters
    ----------
    model, attentions
        With a head, and what `find_attentions` found of it; none if no heads are known, whose scores are NaN then.
    drawn
        The sequences.
    tokens_per_batch
        That the model sees at once.
    advance
        Called with numbers of sequences done, of every arrangement.

    Returns
    -------
    Found
    """
    start, length, layers = drawn.start, drawn.length, list(attentions) or [0]
    count = len(drawn.ids["repeated"])
    shape = (count, len(SCORES), len(layers), max((one.heads for one in attentions.values()), default=1))
    scores, chance = np.full((2, *shape), np.nan)
    losses = {name: np.zeros(count) for name in ("first", *ARRANGEMENTS)}
    rows = np.array_split(np.arange(count), -(-count * (start + 2 * length) // tokens_per_batch))
    for arrangement in ARRANGEMENTS:
        for part in filter(len, rows):
            ids = torch.from_numpy(drawn.ids[arrangement][part]).to(model.device)
            with plainly(model), watching(attentions) as seen:
                logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            wanted = ids[:, 1:].to(logits.device)
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").cpu().numpy()
            losses[arrangement][part] = loss[:, start + length :].mean(axis=1)
            if arrangement == "repeated":
                losses["first"][part] = loss[:, start : start + length - 1].mean(axis=1)
            for index, layer in enumerate(attentions):
                pattern, heads = seen.patterns[layer].float(), slice(attentions[layer].heads)
                found = head_scores(pattern, start, length).cpu().numpy()
                if arrangement == "repeated":
                    scores[part, :, index, heads] = found
                    chance[part, 0, index, heads] = spread_evenly(pattern, start + 1).cpu().numpy()
                if arrangement == "new":
                    chance[part, 1:, index, heads] = found[:, 1:]
            advance(len(part))
    return Found(losses, scores, chance, layers)
