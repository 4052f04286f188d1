"""Reuse: what caches of experts hit, and what is told of the experts of the next layer and of the next token.

The groups of clusters with even numbers are the first half, on which fixed sets and guesses are learned; everything is
measured on the tokens of the others, dataset by dataset. The intervals leave out one group of these, with what was
learned and what caches held as they are: a cache forgets a document within a few tokens of the next one.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.chapters.reuse import ACROSS, MEASURES, ORDERS, TEXT, WITHIN
from gatebook.chapters.reuse.caches import depths, optimal, told
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import token_sample
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.measures.uncertainty import POOLED
from gatebook.study.routed import Layer, slices

OF_LAYERS = ("next_layer_hits", "next_layer_frequent")


def measure(
    study: xr.Dataset, layers: Iterable[Layer], *, tokens: int, sizes: list[int], seed: int, confidence: float
) -> Measured:
    """All measures of the chapter, from the tokens of a study and its layers.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    layers
        In order, see `routed.read_layers`.
    tokens
        At most so many of each dataset, see `token_sample.counted`.
    sizes
        Of caches, in multiples of the experts of a token.
    seed
        Of the sample, and of shuffling.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        Over `dataset`, `layer` and `interval`, and as means over layers: `recent_hits`, `optimal_hits` (token_order,
        cache); `frequent_hits`, `general_hits`, `own_gain`, `recent_gain`, `order_gain`, `document_gain` (cache);
        `next_layer_hits`, `next_token_hits` (token_order); `next_layer_frequent`, `next_layer_gained`,
        `next_token_frequent`, `next_token_gained`. Pooled is the mean over datasets. `cache_experts` (cache) int64: the
        experts of a cache; `uniform_hits` (cache): what any but the optimum hits under uniform routing; `hot_expert`
        (dataset, layer, hot) int64: the experts of the first cache, those that are selected most, -1 where nothing is
        known. What is about the next layer is NaN in the first one. Of a dataset with no cluster in one of the halves
        what needs it is NaN.
    """
    text = _text(study, token_sample.counted(study, tokens, seed), seed)
    per_layer, numbers, before = [], [], None
    for layer in layers:
        numbers.append(layer.number)
        now = _Selected(*(layer.selected[half.place].astype(np.int64) for half in (text.fitted, text.held)))
        found = _of_caches(text, now, layer.experts, sizes) | _of_tokens(text, now, layer.experts)
        per_layer.append(xr.Dataset(found | _of_layers(text, before or now, now, layer.experts)))
        if before is None:
            per_layer[0] = per_layer[0].assign({name: per_layer[0][name] * np.nan for name in OF_LAYERS})
        before = now
    names, top_k = study["name"].values.tolist(), layer.selected.shape[1]
    every = xr.concat(per_layer, dim="layer").assign_coords(
        dataset=[POOLED, *names], layer=numbers, token_order=list(ORDERS), cache=list(sizes)
    )
    hot, draws = every["hot_expert"], _with_differences(every.drop_vars("hot_expert"))
    out = summarise(draws, MEASURES, Jackknife(confidence)).merge(token_sample.sizes(study, text.held.place))
    held = _held(sizes, top_k, layer.experts)
    known = {
        "hot_expert": (hot.dims, hot.values, "expert that is selected most, from the first on", "1"),
        "cache_experts": ("cache", held, "experts that the cache of a layer holds", "experts"),
        "uniform_hits": ("cache", np.array(held) / layer.experts, "hits under uniform routing", "1"),
    }
    for name, (dims, values, title, units) in known.items():
        out[name] = dims, values, {"long_name": title, "units": units}
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "tokens_per_dataset": tokens}
    attrs |= {"experts": layer.experts, "top_k": top_k, "seed": seed, "confidence": confidence}
    return Measured(out.assign_attrs(attrs), draws)


class _Half(NamedTuple):
    """Tokens of one half of the clusters, (token,) int64 each.

    place: of the token in the study; dataset, document: the number of its own; cell: that of its dataset and group.
    """

    place: np.ndarray
    dataset: np.ndarray
    document: np.ndarray
    cell: np.ndarray

    def before(self, order: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens have one before them, of the same `of` (token,), if they come in an order; and which it is."""
        one, other = order[:-1], order[1:]
        alike = of[one] == of[other]
        return other[alike], one[alike]


class _Selected(NamedTuple):
    """The experts that tokens of both halves select in a layer, (token, rank) int64 each."""

    fitted: np.ndarray
    held: np.ndarray


class _Text(NamedTuple):
    """The tokens that count: both halves; `orders`, in which those of the second come; how many `datasets` there are.

    pairs: in each order those of them that have a token before them, and which it is.
    """

    fitted: _Half
    held: _Half
    orders: dict[str, np.ndarray]
    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    datasets: int


def _text(study: xr.Dataset, place: np.ndarray, seed: int) -> _Text:
    """The tokens `place` of a study."""
    group, dataset = (study[name].values[place].astype(np.int64) for name in ("group", "dataset"))
    every = place, dataset, token_sample.documents_of(study)[place], dataset * GROUPS + group
    fitted, held = (_Half(*(values[group % 2 == half] for values in every)) for half in (0, 1))
    rng, tokens = np.random.default_rng([seed, zlib.crc32(b"reuse")]), len(held.place)
    within, across = (np.lexsort((rng.random(tokens), of)) for of in (held.document, held.dataset))
    orders = dict(zip(ORDERS, (np.arange(tokens), within, across), strict=True))
    pairs = {
        name: held.before(order, held.dataset if name == ACROSS else held.document) for name, order in orders.items()
    }
    return _Text(fitted, held, orders, pairs, study.sizes["name"])


def _held(sizes: list[int], top_k: int, experts: int) -> list[int]:
    """How many experts caches hold: so many times those of a token, or all."""
    return [min(size * top_k, experts) for size in sizes]


def _shares(hits: np.ndarray, top_k: int, cell: np.ndarray, datasets: int) -> tuple:
    """The share of selections that are hits, of hits (token,) in tokens of the cells `cell`: (draw, 1 + dataset)."""
    sums = []
    for values in (hits, np.full(len(cell), top_k)):
        parts = np.bincount(cell, values, datasets * GROUPS).reshape(datasets, GROUPS).T
        sums.append(np.concatenate([parts.sum(axis=0, keepdims=True), parts.sum(axis=0) - parts]))
    shares = sums[0] / np.where(sums[1] > 0, sums[1], np.nan)
    known = np.isfinite(shares)
    mean = np.where(known, shares, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return ("draw", "dataset"), np.column_stack([mean, shares])


def _stacked(dim: str, values: list[tuple]) -> tuple:
    """Shares (see `_shares`) along one dimension more."""
    return (dim, *values[0][0]), np.array([each for _, each in values])


def _of_caches(text: _Text, now: _Selected, experts: int, sizes: list[int]) -> dict[str, tuple]:
    """The hits of all caches in a layer, and its hot sets."""
    held, fitted, top_k = text.held, text.fitted, now.held.shape[1]
    recent, best = [], []
    for order in text.orders.values():
        selected, cell, new = now.held[order], held.cell[order], np.diff(held.dataset[order], prepend=-1) != 0
        depth = depths(selected, new, experts)
        for found, of in (
            (recent, [(depth < size).sum(axis=1) for size in _held(sizes, top_k, experts)]),
            (best, [optimal(selected, new, size, experts) for size in _held(sizes, top_k, experts)]),
        ):
            found.append(_stacked("cache", [_shares(hits, top_k, cell, text.datasets) for hits in of]))
    count = np.zeros((text.datasets, experts), np.int64)
    np.add.at(count, (fitted.dataset[:, None], now.fitted), 1)
    count = np.vstack([count.sum(axis=0), count])
    place = np.argsort(np.argsort(-count, axis=1, kind="stable"), axis=1)
    fixed = []
    for row in (1 + held.dataset, np.zeros_like(held.dataset)):
        known = count[row].any(axis=1)
        ready = place[row[known][:, None], now.held[known]]
        of = [(ready < size).sum(axis=1) for size in _held(sizes, top_k, experts)]
        fixed.append(_stacked("cache", [_shares(hits, top_k, held.cell[known], text.datasets) for hits in of]))
    hot = np.argsort(-count, axis=1, kind="stable")[:, : _held(sizes, top_k, experts)[0]]
    return {
        "recent_hits": _stacked("token_order", recent),
        "optimal_hits": _stacked("token_order", best),
        "frequent_hits": fixed[0],
        "general_hits": fixed[1],
        "hot_expert": (("dataset", "hot"), np.where(count.any(axis=1)[:, None], hot, -1)),
    }


def _of_tokens(text: _Text, now: _Selected, experts: int) -> dict[str, tuple]:
    """What the experts of the token before tell in a layer."""
    after, before = text.fitted.before(np.arange(len(now.fitted)), text.fitted.document)
    learned = now.fitted[before], now.fitted[after]
    return _told("next_token", text, learned, now.held, now.held, text.pairs, experts)


def _of_layers(text: _Text, before: _Selected, now: _Selected, experts: int) -> dict[str, tuple]:
    """What a token's experts in the layer before tell; in other orders those of the token before it."""
    own = np.arange(len(now.held))
    pairs = text.pairs | {TEXT: (own, own)}
    return _told("next_layer", text, (before.fitted, now.fitted), before.held, now.held, pairs, experts)


def _told(
    name: str,
    text: _Text,
    learned: tuple[np.ndarray, np.ndarray],
    given: np.ndarray,
    selected: np.ndarray,
    pairs: dict[str, tuple[np.ndarray, np.ndarray]],
    experts: int,
) -> dict[str, tuple]:
    """The hits of what is told, in all orders, and those of the most frequent experts.

    Parameters
    ----------
    name
        What is told: `next_token` or `next_layer`.
    text
        The tokens that count.
    learned
        The experts that are given and those that are selected, (token, rank), of the first half.
    given, selected
        The same of the second half.
    pairs
        Which tokens count in each order, and of which token they are given the experts.
    experts
        How many a layer has.

    Returns
    -------
    dict
        `*_hits` (token_order, draw, dataset) and `*_frequent` (draw, dataset), NaN if nothing was learned.
    """
    count = _pairs(*learned, experts)
    frequent = np.broadcast_to(count.sum(axis=0), count.shape)
    sums = count.sum(axis=1, keepdims=True)
    votes = np.where(sums > 0, count / np.maximum(sums, 1), frequent / max(frequent[0].sum(), 1))
    known = slice(None) if count.any() else slice(0)

    def shares(order: str, votes: np.ndarray) -> tuple:
        after, before = (place[known] for place in pairs[order])
        hits = told(given[before], selected[after], votes)
        return _shares(hits, selected.shape[1], text.held.cell[after], text.datasets)

    return {
        f"{name}_hits": _stacked("token_order", [shares(order, votes) for order in ORDERS]),
        f"{name}_frequent": shares(TEXT, frequent),
    }


def _pairs(given: np.ndarray, selected: np.ndarray, experts: int) -> np.ndarray:
    """How many tokens that are given one expert select another: (given expert, expert) float64."""
    count = np.zeros(experts**2)
    for part in slices(len(given)):
        code = given[part, :, None] * experts + selected[part, None, :]
        count += np.bincount(code.ravel(), minlength=experts**2)
    return count.reshape(experts, experts)


def _with_differences(draws: xr.Dataset) -> xr.Dataset:
    """The draws with those of the measures that are differences of others."""
    orders = {name: draws["recent_hits"].sel(token_order=name, drop=True) for name in ORDERS}
    gained = {
        f"{name}_gained": draws[f"{name}_hits"].sel(token_order=TEXT, drop=True) - draws[f"{name}_frequent"]
        for name in ("next_layer", "next_token")
    }
    return draws.assign(
        own_gain=draws["frequent_hits"] - draws["general_hits"],
        recent_gain=orders[TEXT] - draws["frequent_hits"],
        order_gain=orders[TEXT] - orders[WITHIN],
        document_gain=orders[WITHIN] - orders[ACROSS],
        **gained,
    )
