"""Paths: the first choices of a token in some adjacent layers.

A window of layers has the number of its last one. Numbers of paths are those of n tokens, the same n in all draws and
nulls: tokens stand in a random order, and of those that count in a draw the first n are taken. They count if their id
occurs in so many groups of clusters that every layer of the window can have a token of its own group, which the null of
token ids takes (`null.replaced`); in the null of independent layers each layer has the choice of another of the n
tokens.

Whether a path belongs to a dataset is said by the scores of `measures.expert_sets`, with the path as the set.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from gatebook.chapters.paths import HALF, IDS, MEASURES, OBSERVED, ROUTINGS, SHARES
from gatebook.chapters.paths.null import replaced
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import expert_sets
from gatebook.measures.explained import partners, share_explained
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.measures.token_sample import counted, sizes
from gatebook.measures.uncertainty import INTERVAL, POOLED
from gatebook.study.routed import Layer

TOP = 1500
"""So many of the most frequent paths of a window are kept, for readers to explore."""
LISTED = 5
POINTS = 60
DESCRIBED = {
    "coverage": ("share of tokens on the most frequent paths", "1"),
    "frequent_paths": ("paths that enough tokens take", "paths"),
    "window": ("numbers of the layers of the path", "1"),
    "top_path": ("experts of the most frequent paths, from the first layer on", "1"),
    "top_tokens": ("tokens on the path", "tokens"),
    "best_path": ("experts of the path that most surely belongs to the dataset", ""),
    "best_layer": ("number of the last layer of the path", "1"),
    "best_tokens": ("tokens on the path", "tokens"),
    "best_score": ("share that the dataset has of the path's tokens, if all datasets had equally many", "1"),
}
NUMBERS = ("distinct_paths", "paths_needed", "seen_mass", "path_entropy")


@dataclass(frozen=True)
class _Text:
    """The tokens that count: `token`, `group`, `dataset` (token,) int64, each numbered from 0, and a random `order`.

    datasets: how many there are; held (value, group) bool: which token ids occur in which groups.
    """

    token: np.ndarray
    group: np.ndarray
    dataset: np.ndarray
    order: np.ndarray
    datasets: int
    held: np.ndarray


def measure(
    study: xr.Dataset,
    routed_layers: Iterable[Layer],
    *,
    tokens: int,
    layers: int,
    rarefied_tokens: int,
    minimum_occurrences: int,
    false_discovery_rate: float,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter, from the tokens of a study and its layers.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    routed_layers
        In order, see `routed.read_layers`.
    tokens
        At most so many of each dataset, see `token_sample.counted`.
    layers
        Of a path; all, if there are fewer.
    rarefied_tokens
        Tokens whose paths are counted; fewer, if no more count in all draws.
    minimum_occurrences, false_discovery_rate
        Of the paths that may belong to a dataset.
    seed
        Of the sample, of the order of its tokens, and of the nulls.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `distinct_paths`, `seen_mass`, `path_entropy` (routing, layer, interval), `paths_needed` (routing, share, layer,
        interval), `relative_paths`, `two_back_added`, `specific_share` (layer, interval), and their means over layers.
        `coverage` (routing, layer, paths): the share of tokens on so many paths; `frequent_paths` (layer); `top_path`
        (layer, top, place) and `top_tokens` (layer, top): the most frequent paths of all tokens, -1 and 0 if there are
        fewer; `window` (layer, place): its layers; `best_path`, `best_layer`, `best_tokens` (dataset, best) and
        `best_score` (dataset, best, interval): the paths that most surely belong to a dataset.
    """
    place, names = counted(study, tokens, seed), study["name"].values.tolist()
    rng = np.random.default_rng([seed, 0x7061746873])
    token = np.unique(study["token_id"].sel(kind="input").values[place], return_inverse=True)[1]
    group, dataset = (study[name].values[place].astype(np.int64) for name in ("group", "dataset"))
    held = np.zeros((token.max() + 1, GROUPS), bool)
    held[token, group] = True
    text = _Text(token, group, dataset, rng.permutation(len(place)), len(names), held)
    layers = min(layers, study.sizes["layer"])
    rarefied = _rarefied(text, layers, rarefied_tokens, int(rng.integers(2**62)))
    recent: list[np.ndarray] = []
    numbers, found, frequent = [], [], []
    for layer in routed_layers:
        selected = layer.selected[place]
        recent = [*recent, selected[:, 0].astype(np.int64)][-layers:]
        if len(recent) == layers:
            numbers.append(layer.number)
            found.append(_window(text, recent, selected, rarefied, layer.experts))
            frequent.append(_frequent(text, found[-1].attrs.pop("key"), minimum_occurrences))
    draws = xr.concat(found, dim="layer", combine_attrs="drop")
    draws = draws.assign_coords(routing=list(ROUTINGS), share=list(SHARES), layer=numbers)
    half = draws["paths_needed"].sel(share=HALF, drop=True)
    of_ids = half.sel(routing=IDS, drop=True)
    draws["relative_paths"] = half.sel(routing=OBSERVED, drop=True) / of_ids.where(of_ids > 0)
    draws["specific_share"], best = _specific(
        frequent, text, false_discovery_rate, confidence, layers, layer.experts, numbers
    )
    out = summarise(draws, MEASURES, Jackknife(confidence))
    out = out.merge(best.assign_coords(dataset=[POOLED, *names], interval=list(INTERVAL)))
    known = study["layer"].values
    ends = np.searchsorted(known, numbers) + 1
    out["window"] = ("layer", "place"), np.array([known[end - layers : end] for end in ends])
    for name, (title, units) in DESCRIBED.items():
        values = out[name] if name in out else draws[name]
        out[name] = values.assign_attrs(long_name=title, **({"units": units} if units else {}))
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "tokens_per_dataset": tokens, "layers": layers}
    attrs |= {
        "experts": layer.experts,
        "rarefied_tokens": len(rarefied[0][0]),
        "false_discovery_rate": false_discovery_rate,
    }
    attrs |= {"minimum_occurrences": minimum_occurrences, "seed": seed, "confidence": confidence}
    return Measured(out.merge(sizes(study, place)).assign_attrs(attrs), draws[list(MEASURES)])


def _rarefied(text: _Text, layers: int, most: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The tokens whose paths are counted in each draw, as many in all, and their replacements (`null.replaced`)."""
    place = np.lexsort((text.group, text.token))
    starts = np.searchsorted(text.token[place], np.arange(len(text.held)))
    first, length = starts[text.token], np.bincount(text.token)[text.token]
    candidates = []
    for draw in range(1 + GROUPS):
        number = text.held.sum(axis=1) - (text.held[:, draw - 1] if draw else 0)
        counts = (number >= layers)[text.token] & (text.group != draw - 1)
        candidates.append(text.order[counts[text.order]])
    fewest = min(most, *map(len, candidates))
    return [
        (each[:fewest], replaced(each[:fewest], first, length, place, text.group, layers, draw - 1, seed))
        for draw, each in enumerate(candidates)
    ]


def _window(text: _Text, choices: list[np.ndarray], selected: np.ndarray, rarefied: list, experts: int) -> xr.Dataset:
    """The draws of one window, from the first choices (token,) in each layer and the sets in the last, (token, rank).

    The attribute `key` is the path of every token, as a number.
    """
    numbers = {name: [] for name in NUMBERS}
    for draw, (chosen, others) in enumerate(rarefied):
        sources = (
            [chosen] * len(choices),
            [*others.T, chosen],
            [np.roll(chosen, shift) for shift in range(len(choices))],
        )
        counts = [
            _counts([choice[of] for choice, of in zip(choices, source, strict=True)], experts) for source in sources
        ]
        if not draw:
            coverage = [_coverage(each) for each in counts]
        for name, values in zip(NUMBERS, zip(*map(_numbers, counts), strict=True), strict=True):
            numbers[name].append(values)
    key = _keys(choices, experts)
    top, carried = _top(key, len(choices), experts)
    dims = {name: ("draw", "routing", *(["share"] if name == "paths_needed" else [])) for name in NUMBERS}
    return xr.Dataset(
        {name: (dims[name], np.array(values, np.float64)) for name, values in numbers.items()}
        | {
            "two_back_added": ("draw", _two_back(text, choices, selected, experts)),
            "coverage": (("routing", "paths"), np.array(coverage)),
            "top_path": (("top", "place"), top),
            "top_tokens": ("top", carried),
        },
        coords={"paths": _points(len(rarefied[0][0]))},
        attrs={"key": key},
    )


def _keys(choices: list[np.ndarray], experts: int) -> np.ndarray:
    """Paths as numbers, whose digits to the base of the experts are the choices, (token,) int64 in each layer."""
    key = choices[0]
    for choice in choices[1:]:
        key = key * experts + choice
    return key


def _counts(choices: list[np.ndarray], experts: int) -> np.ndarray:
    """How many tokens take each path, decreasing: (path,) int64."""
    return np.sort(np.unique(_keys(choices, experts), return_counts=True)[1])[::-1]


def _numbers(count: np.ndarray) -> tuple:
    """The `NUMBERS` of paths with decreasing counts (path,); NaN without tokens."""
    tokens = count.sum()
    if not tokens:
        return np.nan, [np.nan] * len(SHARES), np.nan, np.nan
    reached = np.cumsum(count)
    needed = [np.searchsorted(reached, share * tokens) + 1 for share in SHARES]
    share = count / tokens
    return len(count), needed, 1 - (count == 1).sum() / tokens, -(share * np.log2(share)).sum()


def _points(tokens: int) -> np.ndarray:
    """Numbers of paths at which the coverage is given: whole, evenly spread on a logarithmic scale."""
    return np.unique(np.geomspace(1, max(tokens, 1), POINTS).round().astype(np.int64))


def _coverage(count: np.ndarray) -> np.ndarray:
    """The share of tokens on the most frequent paths, at each of the `_points`."""
    tokens = count.sum()
    reached = np.cumsum(count) / max(tokens, 1)
    at = np.minimum(_points(tokens), len(count)) - 1
    return reached[at] if tokens else np.full(len(at), np.nan)


def _two_back(text: _Text, choices: list[np.ndarray], selected: np.ndarray, experts: int) -> np.ndarray:
    """What the layer two before adds to the layer before, of the set in the last layer: (draw,); NaN of two layers."""
    if len(choices) < 3:
        return np.full(1 + GROUPS, np.nan)
    one, both = choices[-2], choices[-3] * experts + choices[-2]
    common = np.zeros(len(one), bool)
    common[partners(both, text.group, text.dataset, text.datasets).place] = True
    more, less = (
        share_explained(partners(code, text.group, text.dataset, text.datasets, common), selected, experts).share[:, 0]
        for code in (both, one)
    )
    return more - less


def _top(key: np.ndarray, layers: int, experts: int) -> tuple[np.ndarray, np.ndarray]:
    """The experts (`TOP`, layer) of the most frequent paths, and their tokens (`TOP`,)."""
    known, count = np.unique(key, return_counts=True)
    best = np.argsort(-count, kind="stable")[:TOP]
    path, carried = np.full((TOP, layers), -1, np.int64), np.zeros(TOP, np.int64)
    path[: len(best)], carried[: len(best)] = _written(known[best], layers, experts), count[best]
    return path, carried


def _written(key: np.ndarray, layers: int, experts: int) -> np.ndarray:
    """The experts of paths: (path, layer) int64."""
    return key[:, None] // experts ** np.arange(layers)[::-1] % experts


@dataclass(frozen=True)
class _Frequent:
    """The frequent paths of a window, `key` (path,), and their tokens, `counts` (path, dataset, group)."""

    key: np.ndarray
    counts: np.ndarray


def _frequent(text: _Text, key: np.ndarray, fewest: int) -> _Frequent:
    known, code, count = np.unique(key, return_inverse=True, return_counts=True)
    row = np.where(count >= fewest, np.cumsum(count >= fewest) - 1, -1)
    rows = row[code]
    here, cells = rows >= 0, text.datasets * GROUPS
    cell = (rows * text.datasets + text.dataset) * GROUPS + text.group
    paths = int((count >= fewest).sum())
    counts = np.bincount(cell[here], minlength=paths * cells).reshape(paths, text.datasets, GROUPS)
    return _Frequent(known[count >= fewest], counts)


def _specific(
    frequent: list[_Frequent],
    text: _Text,
    rate: float,
    confidence: float,
    layers: int,
    experts: int,
    numbers: list[int],
) -> tuple[xr.DataArray, xr.Dataset]:
    """The share of frequent paths that belong to a dataset, (draw, layer), and the paths that most surely do.

    All paths of all windows are one family. A path belongs to a dataset with an adjusted p of at most `rate`.
    """
    counts = np.concatenate([each.counts for each in frequent])
    window = np.repeat(np.arange(len(frequent)), [len(each.key) for each in frequent])
    tokens = np.bincount(text.dataset * GROUPS + text.group, minlength=text.datasets * GROUPS).reshape(-1, GROUPS)
    shares = np.full((1 + GROUPS, len(frequent)), np.nan)
    for draw in range(1 + GROUPS):
        kept = np.arange(GROUPS) != draw - 1
        found = expert_sets.scores(counts * kept, tokens * kept, confidence)
        passed = expert_sets.adjusted(found[3]) <= rate
        known = np.isfinite(found[3]).any(axis=1)
        number = np.bincount(window[known], minlength=len(frequent))
        hits = np.bincount(window[known], passed[known].any(axis=1), minlength=len(frequent))
        shares[draw] = hits / np.where(number > 0, number, np.nan)
        if not draw:
            whole, belongs = found, passed
    key = np.concatenate([each.key for each in frequent])
    written = _written(key, layers, experts)
    path = np.full((1 + text.datasets, LISTED), "", object)
    where, carried = np.zeros((2, 1 + text.datasets, LISTED), np.int64)
    score = np.full((1 + text.datasets, LISTED, 3), np.nan)
    for index in range(text.datasets):
        mine = np.flatnonzero(belongs[:, index])
        for place, row in enumerate(mine[np.argsort(-whole[1, mine, index], kind="stable")][:LISTED]):
            path[1 + index, place] = " ".join(map(str, written[row]))
            where[1 + index, place], carried[1 + index, place] = numbers[window[row]], counts[row].sum()
            score[1 + index, place] = whole[:3, row, index]
    best = ("dataset", "best")
    of_windows = np.bincount(window, minlength=len(frequent))
    values = {"best_path": (best, path.astype(str)), "best_layer": (best, where), "best_tokens": (best, carried)}
    values |= {"best_score": ((*best, "interval"), score), "frequent_paths": ("layer", of_windows)}
    return xr.DataArray(shares, dims=("draw", "layer")), xr.Dataset(values)
