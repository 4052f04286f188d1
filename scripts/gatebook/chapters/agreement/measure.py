"""Agreement: of how many tokens two runs select the same experts, what flips, and which experts keep their tokens.

Overlaps, corrected for chance, are those of `measures.stability`. All runs are held against the first one.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from gatebook.chapters.agreement import MEASURES
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import stability
from gatebook.measures.expert_sets import adjusted
from gatebook.measures.stability import Cells
from gatebook.measures.summary import Jackknife, Measured, interval_table, summarise
from gatebook.measures.summary import table as summary_table
from gatebook.measures.token_sample import sizes
from gatebook.measures.uncertainty import POOLED
from gatebook.problem import Problem
from gatebook.study import routed

DIMS = ("second", "layer", "draw", "dataset")
NULLS = {
    "equal_sets": "tokens of different groups, paired at random",
    "equal_first": "tokens of different groups, by the loads of first choices",
    "kept_experts": "tokens of different groups, by loads",
}


class Compared(NamedTuple):
    """What the routers of all runs did to the same tokens.

    layers: their numbers; experts: of a layer; first (layer, token, rank) int: the sets of the first run; margin
    (layer, token) float32: its boundary margins, NaN where they are not known; others: the sets of the others by their
    names; unordered: the runs of which the order of a token's experts is not known.
    """

    layers: list[int]
    experts: int
    first: np.ndarray
    margin: np.ndarray
    others: Mapping[str, np.ndarray]
    unordered: Collection[str] = ()


def measure(
    study: xr.Dataset,
    place: np.ndarray,
    compared: Compared,
    *,
    name: str,
    seed: int,
    confidence: float,
    false_discovery_rate: float,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    study
        The tokens of the first run, see `routed.read_tokens`.
    place
        Those that count, (token,) int64.
    compared
        What the routers did to them.
    name
        Of the first run.
    seed
        Of the tokens that are paired at random.
    confidence
        Of the intervals, between 0 and 1.
    false_discovery_rate
        At which an expert counts as stable or sensitive.

    Returns
    -------
    Measured
        The measures but the last (second, dataset, layer, interval), pooled as the mean over datasets, and their means
        over layers; `null_*` (second, dataset, layer) what chance gives, for `NULLS`. `expert_agreement` (second,
        layer, expert, interval), of all tokens; `expert_q` (second, layer, expert): the p-value of its difference from
        the mean over the experts of the layer, adjusted over all of a run by Benjamini and Hochberg;
        `expert_class` (second, layer, expert): 1 for a stable expert, -1 for a sensitive one, 0 for any other.
        `tokens`, `documents`, `clusters` (dataset). What is not known is NaN.
    """
    cells, names = Cells.of(study, place), study["name"].values.tolist()
    other, parts, nulls, experts, halves = pairing(cells.group, cells.dataset, seed), [], [], [], []
    for second, sets in compared.others.items():
        ordered = not {name, second} & set(compared.unordered)
        of_layers = [
            _layer(*each, compared.experts, cells, other, ordered=ordered)
            for each in zip(compared.first, sets, compared.margin, strict=True)
        ]
        parts.append({key: [layer[0][key] for layer in of_layers] for key in of_layers[0][0]})
        nulls.append({key: [layer[1][key] for layer in of_layers] for key in NULLS})
        pairs = list(zip(compared.first, sets, strict=True))
        experts.append([of_expert(*pair, compared.experts, cells.group) for pair in pairs])
        halves.append(correlation(np.array([of_halves(*pair, compared.experts, cells.group) for pair in pairs])))
    coords = {"second": list(compared.others), "layer": compared.layers, "dataset": [POOLED, *names]}
    draws = xr.Dataset({key: (DIMS, np.array([part[key] for part in parts])) for key in parts[0]}, coords=coords)
    out = summarise(draws, MEASURES, Jackknife(confidence))
    for key, words in NULLS.items():
        known = {"long_name": f"{MEASURES[key].title} of {words}", "units": "1"}
        out[f"null_{key}"] = ("second", "layer", "dataset"), np.array([null[key] for null in nulls]), known
    by_expert = xr.DataArray(np.array(experts), dims=("second", "layer", "draw", "expert"))
    out = out.merge(_experts(by_expert, confidence, false_discovery_rate)).assign_coords(expert=range(compared.experts))
    told = {"long_name": "correlation of the agreement of experts in both halves of the groups", "units": "1"}
    out["expert_halves"] = "second", halves, told
    attrs = {"first": name, "pooled_datasets": len(names), "groups": GROUPS, "confidence": confidence}
    out = out.merge(sizes(study, place)).assign_attrs(attrs, false_discovery_rate=false_discovery_rate)
    return Measured(out, draws)


def pairing(group: np.ndarray, dataset: np.ndarray, seed: int) -> np.ndarray:
    """For each token another one of its dataset at random, in another group if there is one: (token,) int64."""
    rng, found = np.random.default_rng(seed), np.arange(len(group))
    for index in np.unique(dataset):
        mine = np.flatnonzero(dataset == index)
        mine = mine[np.argsort(group[mine], kind="stable")]
        size = np.bincount(group[mine], minlength=GROUPS)
        others = len(mine) - size[group[mine]]
        end = np.cumsum(size)[group[mine]]
        drawn = (rng.random(len(mine)) * np.maximum(others, 1)).astype(np.int64)
        found[mine] = np.where(others > 0, mine[(end + drawn) % len(mine)], mine)
    return found


def _layer(
    one: np.ndarray,
    two: np.ndarray,
    margin: np.ndarray,
    experts: int,
    cells: Cells,
    other: np.ndarray,
    *,
    ordered: bool,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The measures of a layer, (draw, 1 + dataset) each, and what chance gives of some of them, (1 + dataset,) each."""
    every = np.ones(len(one), bool)
    found = stability.kept(one, two, margin, experts, cells)
    first, theirs = one[:, :1], two[:, :1]
    equal_first = stability.mean((first == theirs)[:, 0].astype(float), every, cells)
    known = np.isfinite(margin)
    found["margin_tells"] = tells(np.where(known, margin, 0), ~stability.equal_sets(one, two), known, cells)
    null = {
        "equal_sets": stability.mean(
            stability.equal_sets(one, two[other]).astype(float), other != np.arange(len(one)), cells
        )[0],
        "equal_first": stability.by_chance(first, theirs, experts, cells)[0],
        "kept_experts": stability.by_chance(one, two, experts, cells)[0],
    }
    found["equal_first"] = equal_first if ordered else equal_first * np.nan
    null["equal_first"] = null["equal_first"] if ordered else null["equal_first"] * np.nan
    return found, null


def tells(margin: np.ndarray, flips: np.ndarray, known: np.ndarray, cells: Cells) -> np.ndarray:
    """P(margin of a token that flips < margin of another one of its dataset), ties by half: (draw, 1 + dataset).

    Draws as those of `stability.mean`; pooled is the mean over the datasets in which some tokens flip and others do
    not. margin (token,) float; flips, known (token,) bool.
    """
    wins, pairs = (np.zeros((cells.datasets, GROUPS, GROUPS)) for _ in range(2))
    for dataset in range(cells.datasets):
        mine = known & (cells.dataset == dataset)
        changed, group = margin[mine & flips], cells.group[mine & flips]
        for number in range(GROUPS):
            kept = np.sort(margin[mine & ~flips & (cells.group == number)])
            above = len(kept) - (np.searchsorted(kept, changed, "left") + np.searchsorted(kept, changed, "right")) / 2
            wins[dataset, :, number] = np.bincount(group, above, GROUPS)
            pairs[dataset, :, number] = np.bincount(group, minlength=GROUPS) * len(kept)
    won, held = (_without_a_group(each) for each in (wins, pairs))
    by_dataset = won / np.where(held > 0, held, np.nan)
    with np.errstate(invalid="ignore"):
        number = np.isfinite(by_dataset).sum(axis=1, keepdims=True)
        pooled = np.nansum(by_dataset, axis=1, keepdims=True) / np.where(number > 0, number, np.nan)
    return np.concatenate([pooled, by_dataset], axis=1)


def _without_a_group(pairs: np.ndarray) -> np.ndarray:
    """Sums over pairs of groups (dataset, group, group), of all and without each group: (draw, dataset)."""
    whole = pairs.sum(axis=(1, 2))
    own = np.diagonal(pairs, axis1=1, axis2=2)
    return np.concatenate([whole[None], (whole[:, None] - pairs.sum(axis=1) - pairs.sum(axis=2) + own).T])


def of_expert(one: np.ndarray, two: np.ndarray, experts: int, group: np.ndarray) -> np.ndarray:
    """|T and T'| / |T or T'| of the tokens T and T' that select each expert: (draw, expert), NaN where there is none.

    one, two (token, rank): the sets. Draw 0 is of all tokens, draw g + 1 without group g.
    """
    mine, theirs = (_chosen(sets, experts) for sets in (one, two))
    both, either = (_by_group(each, group) for each in (mine & theirs, mine | theirs))
    shared, union = (np.concatenate([each.sum(axis=0)[None], each.sum(axis=0) - each]) for each in (both, either))
    return shared / np.where(union > 0, union, np.nan)


def _by_group(chosen: np.ndarray, group: np.ndarray) -> np.ndarray:
    """How many tokens of each group have each expert: (group, expert), from (token, expert) bool."""
    return np.array([chosen[group == number].sum(axis=0) for number in range(GROUPS)])


def of_halves(one: np.ndarray, two: np.ndarray, experts: int, group: np.ndarray) -> np.ndarray:
    """What `of_expert` gives of the tokens in even groups, and of those in odd ones: (2, expert)."""
    halves = [group % 2 == half for half in (0, 1)]
    return np.array([of_expert(one[half], two[half], experts, group[half])[0] for half in halves])


def correlation(halves: np.ndarray) -> float:
    """Pearson's r over experts of how far they are from the mean of their layer in both halves (layer, 2, expert).

    NaN where nothing varies.
    """
    with np.errstate(invalid="ignore"):
        distance = halves - np.nanmean(halves, axis=2, keepdims=True)
    known = np.isfinite(distance).all(axis=1)
    one, other = (distance[:, half][known] for half in (0, 1))
    return float(np.corrcoef(one, other)[0, 1]) if len(one) > 2 and one.std() and other.std() else np.nan


def _chosen(sets: np.ndarray, experts: int) -> np.ndarray:
    """Which experts each token selects: (token, expert) bool."""
    found = np.zeros((len(sets), experts), bool)
    np.put_along_axis(found, sets.astype(np.int64), True, axis=1)
    return found


def _experts(draws: xr.DataArray, confidence: float, rate: float) -> xr.Dataset:
    """`expert_agreement` with its interval, `expert_q` and `expert_class` from draws (second, layer, draw, expert)."""
    measure = MEASURES["expert_agreement"]
    found = Jackknife(confidence).interval(draws, measure.bounds)
    distance = (draws - draws.mean("expert")).transpose("draw", ...).values
    q = np.array([adjusted(p) for p in p_values(distance)])
    told = {"long_name": "p-value of the difference from the layer's mean, adjusted over layers and experts"}
    classes = {"long_name": "1 for a stable expert, -1 for a sensitive one, 0 for any other", "units": "1"}
    return xr.Dataset(
        {
            "expert_agreement": found.assign_attrs(long_name=measure.title, units="1", formula=measure.formula),
            "expert_q": (("second", "layer", "expert"), q, told | {"units": "1"}),
            "expert_class": (
                ("second", "layer", "expert"),
                np.where(q <= rate, np.sign(np.nan_to_num(distance[0])), 0).astype(np.int8),
                classes,
            ),
        }
    )


def p_values(draws: np.ndarray) -> np.ndarray:
    """Two-sided p-values of 0, from draws (draw, ...) of all and without each group, by Student's t.

    Not below 2^(1 - groups), the least that the signs of so many groups can support; 1 where nothing differs from 0 in
    any draw.
    """
    filled = draws[1:][[not np.array_equal(draw, draws[0], equal_nan=True) for draw in draws[1:]]]
    groups = len(filled)
    if groups < 2:
        return np.where((draws == 0).all(axis=0), 1, np.nan)
    error = np.sqrt((groups - 1) / groups * ((filled - filled.mean(axis=0)) ** 2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * scipy.stats.t.sf(np.abs(draws[0]) / error, groups - 1)
    return np.where((draws == 0).all(axis=0), 1, np.maximum(p, 2 * 0.5**groups))


def table(metrics: xr.Dataset) -> pd.DataFrame:
    """The measures as rows, those of experts last; see `summary.table`."""
    by_expert = interval_table(metrics["expert_agreement"])
    by_expert.insert(0, "measure", "expert_agreement")
    for name in ("expert_q", "expert_class"):
        by_expert[name] = metrics[name].transpose("second", "layer", "expert").values.ravel()
    names = [name for name in MEASURES if name != "expert_agreement"]
    return pd.concat([summary_table(metrics, names), by_expert], ignore_index=True)


def read(
    names: list[str],
    runs: list[tuple[xr.Dataset, list[str], np.ndarray]],
    alternatives: list[str],
    chosen: np.ndarray,
    common: np.ndarray,
    *,
    unordered: Collection[str],
) -> Compared:
    """The selections of all runs at the same tokens, in the layers that all runs have.

    Parameters
    ----------
    names
        Of all runs, those of the alternatives last.
    runs
        Study, folders of records and places of the tokens of each run with records.
    alternatives
        The files of the others.
    chosen
        The places of the tokens for which these are, in the study of the first run: (token,) int64.
    common
        Which of them count: (token,) bool.
    unordered
        See `Compared`.

    Returns
    -------
    Compared

    Raises
    ------
    Problem
        If runs share no layer, or have other numbers of experts.
    """
    found, sizes_of, margin = [], [], None
    for study, folders, place in runs:
        wanted = ("boundary_margin",) if margin is None and routed.hold_margins(folders) else ()
        sets, margins = {}, {}
        for layer in routed.read_layers(study, folders, *wanted):
            sets[layer.number] = layer.selected[place]
            margins[layer.number] = layer.margin[place] if wanted else np.full(len(place), np.nan, np.float32)
        margin = margins if margin is None else margin
        found.append(sets)
        sizes_of.append((layer.experts, layer.selected.shape[1]))
    for path in alternatives:
        layers = list(routed.read_selected(path, chosen))
        found.append({layer.number: layer.selected[common] for layer in layers})
        sizes_of.append((layers[0].experts, layers[0].selected.shape[1]))
    for name, sizes_here in zip(names, sizes_of, strict=True):
        if sizes_here != sizes_of[0]:
            raise Problem(
                f"agreement: {name} selects {sizes_here[1]} of {sizes_here[0]} experts and {names[0]} {sizes_of[0][1]} "
                f"of {sizes_of[0][0]}: compare runs with the same experts."
            )
    layers = [number for number in found[0] if all(number in sets for sets in found)]
    if not layers:
        raise Problem(
            "agreement: the runs have no layer of the same number: study the same layers (models.NAME.layers)."
        )
    if not common.any():
        raise Problem("agreement: the runs have no token in common: compare runs over the same documents and windows.")
    sets = [np.array([each[number] for number in layers]) for each in found]
    others = dict(zip(names[1:], sets[1:], strict=True))
    return Compared(layers, sizes_of[0][0], sets[0], np.array([margin[number] for number in layers]), others, unordered)
