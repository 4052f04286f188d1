"""The texts of a contrast: which make the vector, which are its price, which prompts are neutral, and unigram models.

Clusters of documents of a dataset are cut into halves. The first tokens of documents of one half make the vector; those
of the other half are held-out texts, and all its other tokens make the unigram model. So no token is used twice.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.inputs.clusters import sources
from gatebook.measures.token_sample import beginnings
from gatebook.problem import Problem


class Side(NamedTuple):
    """A dataset of a contrast.

    name: of the dataset; made, held_out (text, position) int64: token ids; cluster (text,): of each held-out text;
    words (id,) int64: how often each token id occurs in the tokens of the unigram model; own (text, id) int64: how
    often in those of the held-out text's own cluster.
    """

    name: str
    made: np.ndarray
    held_out: np.ndarray
    cluster: np.ndarray
    words: np.ndarray
    own: np.ndarray


class Prompts(NamedTuple):
    """Beginnings of documents: ids (prompt, position) int64, and their clusters, each of which has one (prompt,)."""

    ids: np.ndarray
    cluster: np.ndarray


def side(tokens: xr.Dataset, vocabulary: int, *, documents: int, length: int, seed: int) -> Side:
    """The parts of a dataset.

    Parameters
    ----------
    tokens
        Its token file.
    vocabulary
        How many token ids there are.
    documents, length, seed
        See the settings of the chapter.

    Returns
    -------
    Side

    Raises
    ------
    Problem
        If it has too few documents that are long enough.
    """
    name, cluster = tokens.attrs["dataset"], tokens["cluster"].values.astype(str)
    known = np.unique(cluster)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    first = np.isin(cluster, rng.permutation(known)[: (len(known) + 1) // 2])
    drawn = {"documents": documents, "length": length, "seed": seed}
    made, _ = beginnings(tokens, first, **drawn)
    held_out, chosen = beginnings(tokens, ~first, **drawn)
    if not (len(made) and len(held_out)):
        raise Problem(
            f"steering: {name} has too few documents of {length} tokens for a vector and held-out texts: lower "
            "steering.length, or leave the dataset out of steering.pairs."
        )
    owner = np.repeat(np.arange(len(cluster)), tokens["document_tokens"].values)
    within = (
        np.arange(len(owner)) - (np.cumsum(tokens["document_tokens"].values) - tokens["document_tokens"].values)[owner]
    )
    free = ~first[owner] & ~(np.isin(owner, chosen) & (within < held_out.shape[1]))
    ids = tokens["token_id"].values
    own = [np.bincount(ids[free & (cluster[owner] == each)], minlength=vocabulary) for each in cluster[chosen]]
    return Side(name, made, held_out, cluster[chosen], np.bincount(ids[free], minlength=vocabulary), np.array(own))


def log_ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """ln p₁ − ln p₂ of every token id (..., id), under the add-one unigram models of counts (..., id).

    The counts of both are scaled to the smaller total, so that an id that neither has is as likely under both.
    """
    totals = [counts.sum(axis=-1, keepdims=True) for counts in (first, second)]
    least = np.minimum(*totals)
    scaled = [counts * (least / np.maximum(total, 1)) for counts, total in zip((first, second), totals, strict=True)]
    return np.log1p(scaled[0]) - np.log1p(scaled[1])


def real_ratios(one: Side, other: Side) -> tuple[np.ndarray, np.ndarray]:
    """The mean log-likelihood ratio of each held-out text of both sides: (text,) float64 each.

    The unigram model of its own side is without the tokens of the text's cluster.
    """

    def of(mine: Side, table: np.ndarray) -> np.ndarray:
        return np.take_along_axis(table, mine.held_out, axis=1).mean(axis=1)

    return of(one, log_ratio(one.words - one.own, other.words[None])), of(
        other, log_ratio(one.words[None], other.words - other.own)
    )


def prompts(
    tokens: Mapping[str, xr.Dataset], pair: Sequence[str], *, prompts: int, choosing: int, prompt: int, seed: int
) -> tuple[Prompts, Prompts]:
    """Neutral prompts, as many of each dataset as there are.

    Parameters
    ----------
    tokens
        The token files of the study's datasets.
    pair
        Those of the contrast, of which prompts are only if there are no others.
    prompts, choosing, prompt, seed
        See the settings of the chapter.

    Returns
    -------
    tuple[Prompts, Prompts]
        Those by which the layer is chosen, and others.

    Raises
    ------
    Problem
        If there are fewer than three prompts.
    """
    names = [name for name in tokens if name not in pair] or list(tokens)
    ids, clusters = [], []
    for name in names:
        one = tokens[name]
        most = min(-(-(prompts + choosing) // len(names)), len(np.unique(one["cluster"].values)))
        found, chosen = beginnings(one, np.ones(one.sizes["document"], bool), documents=most, length=prompt, seed=seed)
        if len(found):
            clusters.append(sources(one["cluster"].values, one.attrs["dataset_sha256"])[chosen])
            ids.append(found)
    together = np.concatenate(clusters) if clusters else np.zeros(0, object)
    _, unique = np.unique(together.astype(str), return_index=True)
    order = np.random.default_rng([seed, 1]).permutation(np.sort(unique))
    if len(order) < 3:
        raise Problem(f"steering: the study has {len(order)} documents of {prompt} tokens for prompts: lower prompt.")
    number = min(choosing, len(order) // 3)
    both = [order[:number], order[number : number + prompts]]
    return tuple(Prompts(np.concatenate(ids)[each], together[each]) for each in both)
