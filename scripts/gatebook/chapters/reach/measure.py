"""Reach: how much of where a token goes the end of its text settles, and how much of it a change of the model leaves.

The overlap of two sets of experts is |S and S'| / k. It is corrected for what chance would give, (A - A_0) / (1 - A_0):
A_0 is the mean overlap of S of a token and S' of another one in another group of clusters, of any dataset, all of which
have equal weights. It follows from loads. Pooled is the mean over datasets, of A and of A_0.

The tokens before the last n of an unrelated text belong to another token that was drawn, whose group is another one.
Which one it is counts as chance: what leaves out a group leaves out the tokens of that group, not those that have its
text before them.
"""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.reach import AGAIN, DTYPE, KERNEL, MEASURES, NOISE
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.measures.token_sample import documents_of, sizes
from gatebook.measures.uncertainty import POOLED
from gatebook.study import routed

TINY = 1e-12
DIMS = ("layer", "draw", "dataset")


class Plan(NamedTuple):
    """What is run.

    place (token,) int64: the tokens that are drawn, by their places in the study; short, unrelated: by length, the text
    of each, (position,) int32, unrelated only for lengths of at most half the longest; begins: how many of the tokens
    are in a window that begins with special ones, which their texts keep. windows: the token ids of the windows that
    are run with changes, whole; later (token,) int64: the places of their tokens that count, and within (token,) int64
    among all their tokens.
    """

    place: np.ndarray
    short: dict[int, list[np.ndarray]]
    unrelated: dict[int, list[np.ndarray]]
    begins: int
    windows: list[np.ndarray]
    later: np.ndarray
    within: np.ndarray


def plan(
    study: xr.Dataset, *, tokens: int, lengths: Sequence[int], windows: int, seed: int, special: Collection[int]
) -> Plan:
    """What is run of a study.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    tokens, lengths, windows, seed
        The settings of the chapter.
    special
        The ids of special tokens.

    Returns
    -------
    Plan
    """
    ids = study["token_id"].sel(kind="input").values
    window, position = routed.windows(study)
    start, longest = np.arange(len(ids)) - position, max(lengths)
    leading = _leading(np.isin(ids, list(special)), position)[window]
    eligible = np.flatnonzero(position - leading >= longest)
    of = study["dataset"].values, study["cluster"].values[documents_of(study)]
    names = study["name"].values.tolist()
    place = np.sort(_in_turn(eligible, *of, names, seed)[:tokens])
    other = _unrelated(study["group"].values[place].astype(np.int64), np.random.default_rng(seed))

    def text(index: int, length: int, before: Sequence[int] = ()) -> np.ndarray:
        last, first = place[index] + 1, start[place[index]]
        kept = ids[first : first + leading[place[index]]]
        return np.concatenate([kept, *(ids[end - length : end] for end in (*(place[one] + 1 for one in before), last))])

    every = range(len(place))
    short = {length: [text(index, length) for index in every] for length in lengths}
    unrelated = {
        length: [text(index, length, [other[index]]) for index in every]
        for length in lengths
        if 2 * length <= longest and other is not None
    }
    ends = np.flatnonzero(np.append(position[1:] == 0, True))
    long = ends[np.isin(ends, eligible)]  # the last tokens of windows that are long enough
    chosen = np.sort(_in_turn(long, *of, names, seed)[:windows])
    spans = [np.arange(start[end], end + 1) for end in chosen]
    whole = np.concatenate([np.zeros(0, np.int64), *spans])
    within = np.flatnonzero(np.isin(whole, eligible))
    begins = int((leading[place] > 0).sum())
    return Plan(place, short, unrelated, begins, [ids[span] for span in spans], whole[within], within)


def _leading(special: np.ndarray, position: np.ndarray) -> np.ndarray:
    """With how many special tokens each window begins: (window,) int64."""
    others = np.where(special, len(special), position)
    starts = np.flatnonzero(position == 0)
    return np.minimum(np.minimum.reduceat(others, starts), np.diff(starts, append=len(position)))


def _in_turn(place: np.ndarray, dataset: np.ndarray, cluster: np.ndarray, names: list[str], seed: int) -> np.ndarray:
    """The tokens `place` in the order in which they are drawn: one of each cluster before a second one.

    Datasets take turns. dataset, cluster (token,) are of all tokens of the study. The order within a dataset is random,
    by `seed` and the dataset's name.
    """
    chosen, turns, ranks = [], [], []
    for index, name in enumerate(names):
        mine = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(place[dataset[place] == index])
        turn = pd.Series(cluster[mine]).groupby(cluster[mine]).cumcount().to_numpy()
        order = np.argsort(turn, kind="stable")
        chosen.append(mine[order])
        turns.append(turn[order])
        ranks.append(np.arange(len(mine)))
    return np.concatenate(chosen)[np.lexsort(tuple(map(np.concatenate, (ranks, turns))))]


def _unrelated(group: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """For each token a random one of another group, (token,) int64; None if there is but one group."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group, minlength=GROUPS)
    others = len(group) - size[group]
    if not (others > 0).all():
        return None
    end = np.cumsum(size)[group]
    return order[(end + (rng.random(len(group)) * others).astype(np.int64)) % len(group)]


class Cells(NamedTuple):
    """Where tokens are from: `group`, `dataset` (token,) int64, and the number of `datasets`."""

    group: np.ndarray
    dataset: np.ndarray
    datasets: int

    @classmethod
    def of(cls, study: xr.Dataset, place: np.ndarray) -> "Cells":
        """The cells of some tokens of a study."""
        group, dataset = (study[name].values[place].astype(np.int64) for name in ("group", "dataset"))
        return cls(group, dataset, study.sizes["name"])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sums of values (token, ...) by group and dataset: (group, dataset, ...) float64."""
        total = np.zeros((GROUPS, self.datasets, *values.shape[1:]))
        np.add.at(total, (self.group, self.dataset), values)
        return total

    def loads(self, selected: np.ndarray, experts: int) -> np.ndarray:
        """How many tokens select each expert, from their sets (token, rank): (group, dataset, expert) float64."""
        cell = self.group * self.datasets + self.dataset
        count = np.bincount((cell[:, None] * experts + selected).ravel(), minlength=GROUPS * self.datasets * experts)
        return count.reshape(GROUPS, self.datasets, experts).astype(np.float64)


def mean(values: np.ndarray, among: np.ndarray, cells: Cells) -> np.ndarray:
    """The mean of values over the tokens `among` all, without each group: (draw, 1 + dataset) float64.

    Draw 0 is that of all groups, draw g + 1 leaves out group g. The first dataset is all of them, whose tokens count
    such that datasets have equal weights. NaN where there is no token.

    values (token,) float; among (token,) bool.
    """
    part, whole = (_without_each(cells.sums(each)) for each in (np.where(among, values, 0), among.astype(float)))
    return _ratios(part, whole, _without_each(cells.sums(np.ones(len(among)))))


def _without_each(sums: np.ndarray) -> np.ndarray:
    """Sums by group (group, ...) as that of all and those without each group: (draw, ...)."""
    total = sums.sum(axis=0)
    return np.concatenate([total[None], total - sums])


def _ratios(part: np.ndarray, whole: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Part by whole, (draw, dataset), of every dataset, and before it of all of them, weighted by 1 / `tokens`."""
    weight = np.where(tokens > 0, 1 / np.maximum(tokens, 1), 0)
    part, whole = (np.concatenate([(each * weight).sum(axis=1, keepdims=True), each], axis=1) for each in (part, whole))
    return part / np.where(whole > TINY, whole, np.nan)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|S and S'| / k of each token, from two sets (token, rank), k that of the first: (token,) float64."""
    shared = np.zeros(len(one))
    for rank in range(other.shape[1]):
        shared += (one == other[:, rank, None]).any(axis=1)
    return shared / one.shape[1]


def by_chance(one: np.ndarray, other: np.ndarray, experts: int, cells: Cells) -> np.ndarray:
    """A_0: the mean overlap of S of one token and S' of another one in another group, (draw, 1 + dataset) as `mean`.

    one, other (token, rank): the sets. A dataset's tokens are held against those of all datasets.
    """
    tokens, kept = cells.sums(np.ones(len(one))), 1 - np.eye(1 + GROUPS, GROUPS, k=-1)
    held = _without_each(tokens)
    weight = np.where(held > 0, 1 / np.maximum(held, 1), 0)
    load = np.einsum("wg,gde,wd->wge", kept, cells.loads(other, experts), weight, optimize=True)
    size = np.einsum("wg,gd,wd->wg", kept, tokens, weight, optimize=True)
    load, size = (each.sum(axis=1, keepdims=True) - each for each in (load, size))  # of the other groups
    shared = np.einsum("wg,gde,wge->wd", kept, cells.loads(one, experts), load, optimize=True) / one.shape[1]
    return _ratios(shared, np.einsum("wg,gd,wg->wd", kept, tokens, size, optimize=True), held)


def corrected(one: np.ndarray, other: np.ndarray, experts: int, cells: Cells) -> np.ndarray:
    """(A - A_0) / (1 - A_0), (draw, 1 + dataset) as `mean`; one, other (token, rank) are the sets."""
    shared = mean(overlap(one, other), np.ones(len(one), bool), cells)
    chance = by_chance(one, other, experts, cells)
    return (shared - chance) / np.where(1 - chance > TINY, 1 - chance, np.nan)


class Routed(NamedTuple):
    """What the routers of all layers did: sets of experts (layer, token, rank) int.

    full: of the tokens that are drawn, in their whole text, as recorded; short, unrelated: the same in the texts of the
    plan, by length; later: of the tokens of the windows that count, as recorded; changed: the same by change, after it;
    margin (layer, token) float32: their boundary margin.
    """

    full: np.ndarray
    short: Mapping[int, np.ndarray]
    unrelated: Mapping[int, np.ndarray]
    later: np.ndarray
    changed: Mapping[str, np.ndarray]
    margin: np.ndarray


def recorded(layers: Iterable[routed.Layer], planned: Plan) -> tuple[np.ndarray, np.ndarray, int]:
    """What `Routed` calls `full` and `later`, from the records of all layers, and the number of experts."""
    full, later = [], []
    for layer in layers:
        full.append(layer.selected[planned.place].astype(np.int64))
        later.append(layer.selected[planned.later].astype(np.int64))
    return np.array(full), np.array(later), layer.experts


def names_of(noise: Sequence[float]) -> list[str]:
    """The names of all changes."""
    return [AGAIN, DTYPE, KERNEL, *(NOISE.format(100 * share) for share in noise)]


def measure(
    study: xr.Dataset,
    planned: Plan,
    found: Routed,
    *,
    experts: int,
    lengths: Sequence[int],
    noise: Sequence[float],
    confidence: float,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    planned
        What was run.
    found
        What the routers did.
    experts
        Of a layer.
    lengths, noise
        The settings of the chapter.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `recovered`, `recovered_after_unrelated`, `lost_to_unrelated` (length, dataset, layer, interval);
        `kept_experts`, `ceiling`, `equal_sets`, `margin_changed`, `margin_kept` (change, dataset, layer, interval);
        their `mean_over_layers_*`. What was not run is NaN. Pooled is the mean over datasets. `tokens`, `documents`,
        `clusters` (dataset): of the tokens that are drawn; `changed_tokens`, `changed_clusters` (dataset): of those
        that are run with changes.
    """
    cells, later = Cells.of(study, planned.place), Cells.of(study, planned.later)
    names, layers = study["name"].values.tolist(), study["layer"].values.tolist()
    nothing = np.full((len(layers), 1 + GROUPS, 1 + len(names)), np.nan)

    def of_texts(texts: Mapping[int, np.ndarray]) -> tuple:
        per_length = [_by_layer(corrected, found.full, texts.get(length), experts, cells) for length in lengths]
        return ("length", *DIMS), np.array([nothing if each is None else each for each in per_length])

    draws = xr.Dataset(
        {"recovered": of_texts(found.short), "recovered_after_unrelated": of_texts(found.unrelated)},
        coords={"length": list(lengths), "layer": layers, "dataset": [POOLED, *names]},
    )
    draws["lost_to_unrelated"] = draws["recovered"] - draws["recovered_after_unrelated"]
    changes = names_of(noise)
    parts = [_changed(found, found.changed.get(name), experts, later, nothing) for name in changes]
    for name in parts[0]:
        draws[name] = ("change", *DIMS), np.array([part[name] for part in parts])
    draws = draws.assign_coords(change=changes)
    out = summarise(draws, MEASURES, Jackknife(confidence)).merge(sizes(study, planned.place))
    changed = sizes(study, planned.later)
    for name in ("tokens", "clusters"):
        known = {"long_name": f"{name} that are run with changes", "units": name}
        out[f"changed_{name}"] = changed[name].assign_attrs(known)
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "longest": max(lengths), "confidence": confidence}
    attrs |= {"windows_with_start": planned.begins}
    return Measured(out.assign_attrs(attrs), draws)


def _by_layer(measured, one: np.ndarray, other: np.ndarray | None, *arguments) -> np.ndarray | None:
    """A function of two sets of every layer, None if there are no others."""
    return None if other is None else np.array([measured(*sets, *arguments) for sets in zip(one, other, strict=True)])


def _changed(
    found: Routed, after: np.ndarray | None, experts: int, cells: Cells, nothing: np.ndarray
) -> dict[str, np.ndarray]:
    """The measures of one change, (layer, draw, dataset) each; NaN if it was not run."""
    names = ("kept_experts", "ceiling", "equal_sets", "margin_changed", "margin_kept")
    if after is None:
        return dict.fromkeys(names, nothing)
    per_layer = []
    for before, now, margin in zip(found.later, after, found.margin, strict=True):
        kept, every = overlap(before, now), np.ones(len(before), bool)
        equal = (kept == 1) & (before.shape[1] == now.shape[1])
        known = np.isfinite(margin)
        per_layer.append(
            (
                mean(kept, every, cells),
                corrected(before, now, experts, cells),
                mean(equal.astype(float), every, cells),
                mean(margin, known & ~equal, cells),
                mean(margin, known & equal, cells),
            )
        )
    return dict(zip(names, np.swapaxes(np.array(per_layer), 0, 1), strict=True))
