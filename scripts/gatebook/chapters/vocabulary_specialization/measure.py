"""Vocabulary specialization: does the token id decide which expert a token is sent to?

N(x) is how often the token id x occurs, N(x, e) how many of these tokens select expert e: first (selection "first"), or
among their k ("selected"). VS(x, e) = N(x, e) / N(x), Eq. 8 of the OLMoE paper. x is the id of the token that is
routed, of the one that follows it, or of the one that the model predicts (see `vocabulary`).

The largest of a few counts is large by chance: an id that occurs once has max VS = 1. So every value stands beside its
null, the same measure after the selections of all tokens have been permuted among them. That is routing which does not
depend on the token, with the same sets of experts as often as observed. Intervals are those of the jackknife over
groups of clusters; only ids that occur in the group that is left out need to be counted anew.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence

import numba
import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.vocabulary_specialization import MEASURES, OFTEN, baselines
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import summary, uncertainty
from gatebook.measures.summary import MEAN, Jackknife, Measured, summarise
from gatebook.measures.uncertainty import chance
from gatebook.measures.vocabulary import Occurrences, count, occurrences, sample_sizes
from gatebook.study.routed import NONE, Layer

SELECTIONS = ("first", "selected")
SPLITS = 10
"""Random halves of the groups over which the split-half measure is an average."""
TOP = 10
ORDERS = ("share", "count")
TOPS = {"top_token": "1", "top_share": "1", "top_count": "tokens"}
BY_LAYER = ("split_half", "micro", "macro", "macro_often")


@numba.njit(cache=True)
def _add_type(total, size, half, half_size, sign, out):
    """Add to `out`, one draw of `sums`, `sign` times the part of one type: its N(x, e), `total` (expert,), and its
    N(x), `size`; and the same in the first half of each split, `half` (split, expert) and `half_size` (split,)."""
    if size == 0:
        return
    most, leaders = total.max(), 0
    for expert in range(len(total)):
        leaders += total[expert] == most
    for split in range(len(half)):
        if 0 < half_size[split] < size:
            most_first, most_second = 0, 0
            for expert in range(len(total)):
                most_first = max(most_first, half[split, expert])
                most_second = max(most_second, total[expert] - half[split, expert])
            leaders_first, leaders_second, kept_first, kept_second = 0, 0, 0, 0
            for expert in range(len(total)):
                first, second = half[split, expert], total[expert] - half[split, expert]
                if first == most_first:
                    leaders_first += 1
                    kept_first += second
                if second == most_second:
                    leaders_second += 1
                    kept_second += first
            out[0, 0] += sign * (kept_first / leaders_first + kept_second / leaders_second)
            out[1, 0] += sign * size
    share, often = most / size, size >= OFTEN
    out[0, 1] += sign * most
    out[1, 1] += sign * size
    out[0, 2] += sign * share
    out[1, 2] += sign
    if often:
        out[0, 3] += sign * share
        out[1, 3] += sign
        for expert in range(len(total)):
            if total[expert] == most:
                out[0, 4 + expert] += sign * share / leaders
                out[1, 4 + expert] += sign / leaders


@numba.njit(cache=True)
def _add_tokens(group, selected, splits, sign, total, half, half_size):
    """Add `sign` times the tokens of one group (n, rank) to the counts of their type, see `_add_type`."""
    for token in range(len(selected)):
        for rank in range(selected.shape[1]):
            total[selected[token, rank]] += sign
    for split in range(len(splits)):
        if splits[split, group]:
            half_size[split] += sign * len(selected)
            for token in range(len(selected)):
                for rank in range(selected.shape[1]):
                    half[split, selected[token, rank]] += sign


@numba.njit(cache=True)
def _add_types(starts, group, selected, splits, total, half, half_size, ends, out):
    """Fill `out`, zeros, with `sums`, but for draws without a group only with what they differ by from all tokens.

    `total` (expert,), `half` (split, expert) and `half_size` (split,) are zeros; `ends` (group + 1,) is room.
    """
    for code in range(len(starts) - 1):
        total[:], half[:], half_size[:] = 0, 0, 0
        first, size, parts = starts[code], starts[code + 1] - starts[code], 0
        while first < starts[code + 1]:  # the tokens of one group after another
            ends[parts] = first
            stop = first
            while stop < starts[code + 1] and group[stop] == group[first]:
                stop += 1
            _add_tokens(group[first], selected[first:stop], splits, 1, total, half, half_size)
            first, parts = stop, parts + 1
        ends[parts] = first
        _add_type(total, size, half, half_size, 1, out[0])
        for part in range(parts if len(out) > 1 else 0):
            number, members = group[ends[part]], selected[ends[part] : ends[part + 1]]
            _add_type(total, size, half, half_size, -1, out[1 + number])
            _add_tokens(number, members, splits, -1, total, half, half_size)
            _add_type(total, size - len(members), half, half_size, 1, out[1 + number])
            _add_tokens(number, members, splits, 1, total, half, half_size)


def sums(
    starts: np.ndarray, group: np.ndarray, selected: np.ndarray, experts: int, splits: np.ndarray, draws: int
) -> np.ndarray:
    """Numerators and denominators of all measures.

    All are sums over types, so leaving out a group of clusters changes only those that occur in it.

    Parameters
    ----------
    starts
        Tokens are in the order of their types; those of type x begin at starts[x]: (type + 1,) int.
    group
        The groups of the tokens' clusters, increasing within a type: (n,) int8.
    selected
        The experts of the tokens that count: (n, rank) unsigned int.
    experts
        How many the layer has.
    splits
        Which groups are in the first half of each split: (split, group) bool.
    draws
        1, or 1 + `GROUPS`.

    Returns
    -------
    numpy.ndarray
        (draw, 2, 4 + expert) float64: `BY_LAYER`, then those of experts. Draw 0 is that of all tokens, draw g + 1
        leaves out group g.
    """
    out = np.zeros((draws, 2, 4 + experts))
    total, half, half_size = (np.zeros(shape, int) for shape in (experts, (len(splits), experts), len(splits)))
    ends = np.zeros(GROUPS + 1, int)
    _add_types(starts, group, np.ascontiguousarray(selected), splits, total, half, half_size, ends, out)
    out[1:] += out[0]
    return out


def halves(seed: int) -> np.ndarray:
    """Random splits of the groups into halves: (split, group) bool, `SPLITS` of them, True in the first half."""
    half = np.arange(GROUPS) < GROUPS // 2
    return np.random.default_rng(seed).permuted(np.tile(half, (SPLITS, 1)), axis=1)


def ratios(parts: np.ndarray) -> np.ndarray:
    """Numerators by denominators (..., 2, measure), NaN where there is nothing (but for rounding)."""
    numerator, denominator = parts[..., 0, :], parts[..., 1, :]
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 1e-9)


def measure(
    tokens: xr.Dataset,
    layers: Iterable[Layer],
    *,
    permutations: int,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter, from the tokens of a study and its layers.

    Datasets by themselves have values for the input token only, NaN for other kinds; "pooled" has them for all kinds.

    Parameters
    ----------
    tokens
        Those of the study, see `routed.read`.
    layers
        In order, see `routed.read_layers`.
    permutations
        Of the selections among the tokens, for the nulls.
    seed
        Of these.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `split_half`, `micro`, `macro`, `macro_often` (dataset, layer, kind, selection, interval), and `null_*`: the
        mean of the same over permutations, and between which limits it lies. `mean_over_layers_*` has both without
        layer.
        `expert_specialization` (layer, kind, selection, expert, interval) and `null_expert_specialization`: pooled; NaN
        for experts that lead no frequent id. `input_advantage` (dataset, layer, kind, selection, interval): split_half
        of the input token minus that of the kind; `rise` (dataset, kind, selection, interval): split_half in the last
        layer minus that in the first. `predictability` (layer, class, interval), `domain_information`,
        `domain_information_of_ids` and `share_of_ids` (layer, interval), pooled, see `baselines`, and their means over
        layers. `tokens`, `documents`, `clusters` (dataset).

        `top_token` int32, `top_share`, `top_count` (layer, kind, order, expert, place): the `TOP` ids x with N(x) >=
        `OFTEN` that each expert gets as first choice, by VS(x, e) and by N(x, e); the id is `NONE` where there are
        fewer. `led_ids` (layer, kind, expert): how many ids `expert_specialization` of first choices is a mean over.
    """
    names, kinds = [uncertainty.POOLED, *tokens["name"].values.tolist()], tokens["kind"].values.tolist()
    wanted = [(name, kind) for name in names for kind in kinds if name == uncertainty.POOLED or kind == "input"]
    found = {key: occurrences(tokens, key[1], key[0]) for key in wanted}
    by_class = baselines.classes(tokens)
    numbers, draws, nulls, top, splits, others = [], [], [], [], halves(seed), []
    for layer in layers:
        experts = layer.experts
        numbers.append(layer.number)
        shape = (len(names), len(kinds), 1 + GROUPS, len(SELECTIONS), len(BY_LAYER) + experts)
        draws.append(np.full(shape, np.nan))
        nulls.append(np.full((*shape[:2], permutations, *shape[3:]), np.nan))
        for (name, kind), one in found.items():
            place, mine = (names.index(name), kinds.index(kind)), layer.selected[one.place]
            draws[-1][place] = observed(one, mine, experts, splits)
            rng = np.random.default_rng([seed, layer.number, zlib.crc32(name.encode()), zlib.crc32(kind.encode())])
            nulls[-1][place] = permuted(one, mine, experts, splits, permutations, rng)
            if name == uncertainty.POOLED:
                top.append(top_tokens(one, mine[:, :1], experts))
        predicted = [predictability(one, layer.selected[:, :1], experts, splits) for one in by_class.values()]
        others.append(baselines.domain_information(tokens, layer.selected, experts))
        others[-1]["predictability"] = (("class", "draw"), predicted)
    coords = {"layer": numbers, "dataset": names, "kind": kinds, "selection": list(SELECTIONS)}
    out, values = _measures(
        _array(draws, coords, ("layer", "dataset", "kind"), ("draw", "selection", "measure")),
        _array(nulls, coords, ("layer", "dataset", "kind"), ("permutation", "selection", "measure")),
        xr.concat(others, dim="layer").assign_coords(layer=numbers, **{"class": list(by_class)}),
        confidence,
    )
    *tops, led = zip(*top, strict=True)
    for (name, units), top in zip(TOPS.items(), tops, strict=True):
        out[name] = _array(top, coords, ("layer", "kind"), ("order", "expert", "place"))
        out[name].attrs = {"long_name": f"{name.replace('_', ' ')} of an expert's first choices", "units": units}
    out["led_ids"] = _array(led, coords, ("layer", "kind"), ("expert",))
    out["led_ids"].attrs = {"long_name": f"ids with N(x) ≥ {OFTEN} that an expert leads as first choice", "units": "1"}
    sizes = np.bincount(tokens["dataset"].values, minlength=len(names) - 1)
    out["tokens"] = ("dataset", [sizes.sum(), *sizes], {"long_name": "tokens", "units": "tokens"})
    out = out.merge(sample_sizes(tokens))
    attrs = {"groups": GROUPS, "permutations": permutations, "seed": seed, "confidence": confidence}
    out = out.assign_coords(order=list(ORDERS), expert=np.arange(out.sizes["expert"])).assign_attrs(attrs)
    return Measured(out, values)


def observed(found: Occurrences, selected: np.ndarray, experts: int, splits: np.ndarray) -> np.ndarray:
    """All measures with all clusters and without each group: float64 (draw, selection, measure), as in `sums`."""
    return _both(found, np.take(selected, found.order, axis=0), experts, splits, 1 + GROUPS)


def predictability(found: Occurrences, selected: np.ndarray, experts: int, splits: np.ndarray) -> np.ndarray:
    """The split-half measure of tokens by some class, with all clusters and without each group: float64 (draw,)."""
    group, chosen = found.group[found.order], np.take(selected, found.order, axis=0)
    return ratios(sums(found.starts, group, chosen, experts, splits, 1 + GROUPS))[:, BY_LAYER.index("split_half")]


def permuted(
    found: Occurrences,
    selected: np.ndarray,
    experts: int,
    splits: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """All measures when the selections are permuted among the tokens.

    Parameters
    ----------
    found
        Tokens with an id.
    selected
        Their experts: (n, rank) unsigned int.
    experts
        How many the layer has.
    splits
        Of the groups; every permutation takes one of them, in turn.
    permutations
        How many, drawn by `rng`.
    rng
        Is moved on.

    Returns
    -------
    numpy.ndarray
        (permutation, selection, measure) float64.
    """
    values = []
    for number in range(permutations):
        order = rng.permutation(len(selected))[found.order]
        split = splits[[number % len(splits)]]
        values.append(_both(found, np.take(selected, order, axis=0), experts, split, 1)[0])
    return np.array(values)


def _both(found: Occurrences, selected: np.ndarray, experts: int, splits: np.ndarray, draws: int) -> np.ndarray:
    """The measures of first choices and of all: (draw, selection, measure); selected (n, rank) is in `found.order`."""
    group = found.group[found.order]
    parts = [sums(found.starts, group, part, experts, splits, draws) for part in (selected[:, :1], selected)]
    return ratios(np.stack(parts, axis=1))


def top_tokens(found: Occurrences, selected: np.ndarray, experts: int) -> tuple[np.ndarray, ...]:
    """The top ids of every expert, their VS and N(x, e), (order, expert, place): by VS then N, and by N then VS.

    And how many frequent ids an expert leads, (expert,), as in `expert_specialization`.
    """
    size = np.bincount(found.code, minlength=len(found.token_id))
    often = size >= OFTEN
    token_id = found.token_id[often].astype(np.int32)
    number = count(found.code, selected, len(size), experts)[:, often]
    share = number / size[often]
    tops = (
        np.full((len(ORDERS), experts, TOP), NONE, dtype=np.int32),
        np.full((len(ORDERS), experts, TOP), np.nan),
        np.zeros((len(ORDERS), experts, TOP), dtype=np.int32),
    )
    for order, keys in enumerate(((-number, -share), (-share, -number))):
        best = np.lexsort(keys)[:, :TOP]
        expert, place = np.nonzero(np.take_along_axis(number, best, axis=1))
        row = best[expert, place]
        for top, values in zip(tops, (token_id[row], share[expert, row], number[expert, row]), strict=True):
            top[order, expert, place] = values
    leads = number == number.max(axis=0, initial=0)
    return *tops, (leads / leads.sum(axis=0)).sum(axis=1)


def with_texts(metrics: xr.Dataset, texts: Callable[[np.ndarray], list[str]]) -> xr.Dataset:
    """The metrics with `token_text` (token_id): the texts of the ids among the top tokens, as `texts` gives them."""
    token_id = np.unique(metrics["top_token"].values)
    token_id = token_id[token_id != NONE]
    text = np.array(texts(token_id), dtype=object)
    return metrics.assign(token_text=("token_id", text, {"long_name": "text of the token, escaped"})).assign_coords(
        token_id=token_id
    )


def top_table(metrics: xr.Dataset) -> pd.DataFrame:
    """The top tokens as rows: kind, layer, expert, order, place, token_id, token, share, count."""
    texts = dict(zip(metrics["token_id"].values.tolist(), metrics["token_text"].values.tolist(), strict=True))
    rows = metrics[["top_token", "top_share", "top_count"]].transpose("kind", "layer", "expert", "order", "place")
    rows = rows.assign_coords(place=1 + np.arange(TOP)).to_dataframe().reset_index()
    rows = rows[rows["top_token"] != NONE].rename(columns=lambda name: name.removeprefix("top_"))
    rows.insert(rows.columns.get_loc("token") + 1, "text", rows["token"].map(texts))
    return rows.rename(columns={"token": "token_id", "text": "token"}).reset_index(drop=True)


def table(metrics: xr.Dataset, names: Sequence[str] = BY_LAYER) -> pd.DataFrame:
    """Measures as rows (`summary.table`) and `token_independent`, their null; what is not defined is left out."""
    return summary.table(metrics, names, null="token_independent").dropna(subset="estimate", ignore_index=True)


def _measures(
    draws: xr.DataArray, nulls: xr.DataArray, others: xr.Dataset, confidence: float
) -> tuple[xr.Dataset, xr.Dataset]:
    """Intervals of all measures and of their differences, beside their nulls; and the draws of the measures."""
    method = Jackknife(confidence)
    values = others.merge({name: draws.isel(measure=index) for index, name in enumerate(BY_LAYER)})
    experts, null = (
        part.sel(dataset=uncertainty.POOLED, drop=True)
        .isel(measure=slice(len(BY_LAYER), None))
        .rename(measure="expert")
        for part in (draws, nulls)
    )
    out = summarise(values, MEASURES, method)
    for index, name in enumerate(BY_LAYER):
        attributes = {"long_name": f"{MEASURES[name].title}, token-independent routing", "units": MEASURES[name].units}
        for prefix, part in (("", nulls.isel(measure=index)), (MEAN, nulls.isel(measure=index).mean("layer"))):
            out[f"{prefix}null_{name}"] = chance(part, confidence, "permutation").assign_attrs(attributes)
    kept = draws.isel(measure=BY_LAYER.index("split_half"))
    differences = {
        "input_advantage": (
            kept.sel(kind="input", drop=True) - kept,
            "split-half of the input token minus that of a kind",
        ),
        "rise": (kept.isel(layer=-1) - kept.isel(layer=0), "split-half in the last layer minus that in the first one"),
    }
    for name, (part, long_name) in differences.items():
        out[name] = method.interval(part, (-1, 1)).assign_attrs(long_name=long_name, units="1")
    averaged = method.interval(differences["input_advantage"][0].mean("layer"), (-1, 1))
    out["mean_over_layers_input_advantage"] = averaged.assign_attrs(
        long_name="split-half of the input token minus that of a kind, mean over layers", units="1"
    )
    measure = MEASURES["expert_specialization"]
    attributes = {"long_name": measure.title, "units": measure.units, "formula": measure.formula}
    out["expert_specialization"] = method.interval(experts, measure.bounds).assign_attrs(attributes)
    attributes = {"long_name": f"{measure.title}, token-independent routing", "units": measure.units}
    out["null_expert_specialization"] = null.mean("permutation", skipna=False).assign_attrs(attributes)
    return out, values


def _array(parts: list, coords: dict[str, list], outer: tuple[str, ...], inner: tuple[str, ...]) -> xr.DataArray:
    """Arrays whose last dimensions are `inner`, in the order of `outer`, as one array (*outer, *inner)."""
    values = np.array(parts)
    values = values.reshape(*(len(coords[name]) for name in outer), *values.shape[values.ndim - len(inner) :])
    named = {name: coords[name] for name in (*outer, *inner) if name in coords}
    return xr.DataArray(values, named, (*outer, *inner))
