"""Evolution: what training changes in where the same tokens go.

S_c is the set of k experts that a token selects at checkpoint c. Router saturation (OLMoE, Eq. 5) is the mean of
|S_c and S_last| / k. Loads f and f' alone give A_0 = sum_e f_e f'_e / k of it, what two tokens share that have nothing
in common; (A - A_0) / (1 - A_0) is corrected for that. What token ids alone give of it is the mean of |S_c(t) and
S_last(u)| / k over tokens u of the id of t in other groups of clusters (`measures.explained`).

Datasets have the same weight, whatever their sizes, but in loads, where tokens are pooled; f' are the loads of all
datasets. Draw 0 is that of all tokens, draw g + 1 leaves out group g: for the jackknife. The tokens that have a partner
of their id, or of their id and the one before, are the same in all draws.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numba
import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.determinants import PAIR, TOKEN
from gatebook.chapters.determinants.measure import classes, common_tokens, text_of
from gatebook.chapters.evolution import AGAINST, FREQUENCIES, LAST, MEASURES, OFTEN
from gatebook.chapters.evolution.loads import Loads
from gatebook.chapters.evolution.matching import Matching, by_chance, matching
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import summary
from gatebook.measures.explained import Partners, partners, share_explained, shared_experts
from gatebook.measures.summary import MEAN, Bootstrap, Jackknife, summarise
from gatebook.measures.token_sample import sizes
from gatebook.measures.uncertainty import POOLED
from gatebook.study.routed import Layer

BY_DATASET = ("checkpoint", "draw", "dataset")
FEWEST = 3
"""Checkpoints between which it may be said when routing settles: of two the line between them is all."""
SATURATIONS = ("saturation", "null_saturation", "corrected_saturation", "first_saturation", "null_first_saturation")
OF_LOADS = ("coefficient_of_variation", "max_violation", "never_selected", "information")
ESCAPED = re.compile(r"\\(x..|u....|U.{8}|.)")
"""What stands for a character that cannot be printed, in the text of a token."""
NULLS = {
    "null_saturation": "router saturation that loads alone give",
    "null_first_saturation": "router saturation of first choices that loads alone give",
    "null_matched_saturation": "saturation with experts matched, tokens in random order",
    "null_matching_gain": "what matching adds to saturation, tokens in random order",
}
"""What measures would be by chance, without intervals."""


class _Tokens(NamedTuple):
    """The tokens that count: `group`, `dataset`, the number of the id and how `frequent` it is (token,) int64; those of
    `datasets` that there are; the tokens with a partner of their `id`, and the common ones of the classes `TOKEN` and
    `PAIR`."""

    group: np.ndarray
    dataset: np.ndarray
    id: np.ndarray
    frequent: np.ndarray
    datasets: int
    of_id: Partners
    common: dict[str, Partners]

    def sums(self, values: np.ndarray | None = None) -> np.ndarray:
        """Sums of values (token,), or numbers of tokens, in every draw: (draw, dataset) float64."""
        return _sums(self.dataset, self.datasets, self.group, values)


def _tokens(text: xr.Dataset, datasets: int) -> _Tokens:
    group, dataset, codes = text["group"].values, text["dataset"].values, classes(text)
    codes = {name: codes[name] for name in (TOKEN, PAIR)}
    common = common_tokens(codes, text, datasets)
    frequent = np.searchsorted(OFTEN, np.bincount(codes[TOKEN])[codes[TOKEN]], side="right")
    of_id = partners(codes[TOKEN], group, dataset, datasets)
    of_classes = {name: partners(code, group, dataset, datasets, common) for name, code in codes.items()}
    return _Tokens(group, dataset, codes[TOKEN], frequent, datasets, of_id, of_classes)


def _sums(label: np.ndarray, labels: int, group: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Sums of values (token,), or numbers of tokens, for each label in every draw: (draw, label) float64."""
    parts = np.bincount(label * GROUPS + group, values, labels * GROUPS).reshape(labels, GROUPS).T.astype(np.float64)
    return np.concatenate([parts.sum(axis=0)[None], parts.sum(axis=0) - parts])


def _shares(label: np.ndarray, labels: int, group: np.ndarray, selected: np.ndarray, experts: int) -> np.ndarray:
    """The share of the tokens of each label that selects each expert, in every draw: (draw, label, expert) float64."""
    cell = (label[:, None] * experts + selected).ravel()
    count = _sums(cell, labels * experts, np.repeat(group, selected.shape[1])).reshape(-1, labels, experts)
    return _ratio(count, _sums(label, labels, group)[..., None])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part by whole, NaN where that is 0 but for rounding."""
    return part / np.where(np.abs(whole) > 1e-12, whole, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over datasets (draw, dataset, ...), those without a value left out: (draw, ...)."""
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def _with_mean(values: np.ndarray) -> np.ndarray:
    """Values (draw, dataset) with their mean before them."""
    return np.concatenate([_mean(values)[:, None], values], axis=1)


@numba.njit(cache=True)
def in_common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many experts the sets of each token have in common: (token,) int64, from two of (token, rank)."""
    found = np.zeros(len(one), np.int64)
    for token in range(len(one)):
        for rank in range(one.shape[1]):
            for place in range(other.shape[1]):
                if one[token, rank] == other[token, place]:
                    found[token] += 1
    return found


def steps(names: Sequence[str]) -> np.ndarray | None:
    """The training step of each checkpoint, by the number after `step` in its name; None if they do not increase.

    >>> steps(["step5000-tokens20B", "step120000-tokens503B"])
    array([  5000., 120000.])
    """
    found = [re.search(r"step[_-]?(\d+)", name) for name in names]
    if not all(found):
        return None
    numbers = np.array([float(match[1]) for match in found])
    return numbers if (np.diff(numbers) > 0).all() else None


def crossing(values: np.ndarray, at: np.ndarray, level: float) -> np.ndarray:
    """Where values (checkpoint, ...) at increasing places first reach a level: (...) float64.

    Between two checkpoints they lie on a straight line. NaN where one is not known, or none reaches the level.
    """
    reached = values >= level
    after = reached.argmax(axis=0)
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(values, place[None], axis=0)[0] for place in (before, after))
    part = np.where(after > 0, _ratio(level - low, high - low), 0)
    known = reached.any(axis=0) & np.isfinite(values).all(axis=0)
    return np.where(known, at[before] + np.nan_to_num(part) * (at[after] - at[before]), np.nan)


def measure(
    study: xr.Dataset,
    place: np.ndarray,
    checkpoints: Sequence[str],
    layers: Iterable[Sequence[Layer]],
    *,
    texts: Callable[[np.ndarray], list[str]],
    permutations: int,
    shown_tokens: int,
    resamples: int,
    seed: int,
    confidence: float,
) -> xr.Dataset:
    """All measures of the chapter, from the tokens of a study and what each layer did to them at all checkpoints.

    Parameters
    ----------
    study
        Its tokens, see `routed.read_tokens`.
    place
        Those of them that count, see `token_sample.counted`: (token,) int64.
    checkpoints
        Names, in training order.
    layers
        Of each layer, in order, what it did at each checkpoint to the tokens that count.
    texts
        Gives the texts of token ids.
    permutations
        Of tokens, for what matching gains by chance.
    shown_tokens
        How many token ids `first_choices` are of, see `frequent_ids`.
    resamples, seed
        Of the bootstrap of loads; the seed is that of the permutations, too.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        `saturation`, `first_saturation`, `corrected_saturation` (against, checkpoint, dataset, layer, interval), NaN
        against the previous of the first checkpoint; `by_token_id`, `beyond_token_id`, `token_share`, `context_added`,
        `token_lead` (checkpoint, dataset, layer, interval); `settled` (dataset, layer, interval), NaN if the names of
        checkpoints hold no steps, or there are fewer than `FEWEST`; `frequency_saturation` (frequency, checkpoint,
        layer, interval); `matched_saturation`, `matching_gain`, `kept_numbers` (checkpoint, layer, interval); `load`
        (checkpoint, dataset, layer, expert); `coefficient_of_variation`, `max_violation`, `never_selected`,
        `information`, `information_gained` (checkpoint, dataset, layer, interval); `first_choices` (token_id,
        checkpoint, layer, expert). Means over layers, with their intervals, are `mean_over_layers_*`. `null_*` are
        those of `NULLS`, without intervals; `step` (checkpoint) float64; `frequency_tokens` (frequency), `occurrences`
        and `token_text` (token_id); `tokens`, `documents`, `clusters` (dataset) int64.
    """
    names, at = study["name"].values.tolist(), steps(checkpoints)
    text = text_of(study, place)
    known, of_loads = _tokens(text, len(names)), Loads(study, place, resamples, seed)
    shown = frequent_ids(text, len(names), shown_tokens, texts)
    numbers, per_layer, load_layers, chosen = [], [], [], []
    for found in layers:
        number, experts = found[0].number, found[0].experts
        selected = [layer.selected for layer in found]
        rng = np.random.default_rng([seed, number, zlib.crc32(b"evolution")])
        numbers.append(number)
        per_layer.append(_layer(known, selected, experts, permutations, rng))
        load_layers.append(xr.concat([of_loads.measure(each, experts) for each in selected], dim="checkpoint"))
        chosen.append(_first_choices(text["token_id"].values, shown, selected, experts))
    coords = {"dataset": [POOLED, *names], "layer": numbers, "checkpoint": list(checkpoints)}
    named = coords | {"against": list(AGAINST), "frequency": list(FREQUENCIES)}
    draws = xr.concat(per_layer, dim="layer").assign_coords(named)
    of = draws["corrected_saturation"].sel(against=LAST, drop=True)
    draws["settled"] = _settled(of, at)
    for prefix, parts in (("", draws), (MEAN, draws[["token_share", "context_added"]].mean("layer"))):
        draws[f"{prefix}token_lead"] = _gained(parts["token_share"]) - _gained(parts["context_added"])
    nulls = draws[list(NULLS)].isel(draw=0, drop=True)
    out = summarise(draws.drop_vars(list(NULLS)), MEASURES, Jackknife(confidence))
    load_draws = xr.concat(load_layers, dim="layer").assign_coords(coords)
    out = out.merge(_loads(load_draws, Bootstrap(confidence)))
    out = out.merge(nulls).assign(first_choices=(("layer", "token_id", "checkpoint", "expert"), np.array(chosen)))
    for name in ("load", "first_choices"):
        measure = MEASURES[name]
        out[name].attrs = {"long_name": measure.title, "units": measure.units, "formula": measure.formula}
    for name, title in NULLS.items():
        out[name].attrs = {"long_name": title, "units": "1"}
    out = out.assign_coords(expert=np.arange(out.sizes["expert"]), token_id=shown)
    unknown = np.full(len(checkpoints), np.nan)
    out["step"] = "checkpoint", unknown if at is None else at, {"long_name": "training step", "units": "steps"}
    often = np.bincount(known.frequent, minlength=len(FREQUENCIES))
    out["frequency_tokens"] = "frequency", often, {"long_name": "tokens whose ids occur so often", "units": "tokens"}
    occurrences = (text["token_id"].values[:, None] == shown).sum(axis=0)
    out["occurrences"] = "token_id", occurrences, {"long_name": "tokens of the id", "units": "tokens"}
    out["token_text"] = "token_id", np.array(texts(shown), dtype=object), {"long_name": "text of the token id"}
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "permutations": permutations, "resamples": resamples}
    return out.merge(sizes(study, place)).assign_attrs(attrs | {"seed": seed, "confidence": confidence})


def _layer(
    known: _Tokens, selected: list[np.ndarray], experts: int, permutations: int, rng: np.random.Generator
) -> xr.Dataset:
    """The draws of one layer, from its selections at each checkpoint, (token, rank) each."""
    final, number, found = selected[-1], known.sums(), {}
    rank = final.shape[1]
    shares = [_shares(known.dataset, known.datasets, known.group, each, experts) for each in selected]
    firsts = [each[:, :1] for each in selected]
    first = [_shares(known.dataset, known.datasets, known.group, each, experts) for each in firsts]
    for against in AGAINST:
        others = [(len(selected) if against == LAST else place) - 1 for place in range(len(selected))]
        of_all = [_saturation(known, selected, shares, *pair) for pair in enumerate(others)]
        of_first = [_saturation(known, firsts, first, *pair) for pair in enumerate(others)]
        parts = [*np.array(of_all).swapaxes(0, 1), *np.array(of_first).swapaxes(0, 1)[:2]]
        found[against] = xr.Dataset({name: (BY_DATASET, part) for name, part in zip(SATURATIONS, parts, strict=True)})
    out = xr.concat(found.values(), dim="against")
    common = [in_common(each, final) / rank for each in selected]
    has = np.zeros(len(final))
    has[known.of_id.place] = 1
    covered, by_id, of_token, of_pair, frequent = [], [], [], [], []
    weight = (1 / np.maximum(number[0], 1))[known.dataset]
    matched, chance = [], []
    for each, shared in zip(selected, common, strict=True):
        covered.append(_with_mean(_ratio(known.sums(shared * has), known.sums(has))))
        by_id.append(shared_experts(known.of_id, each, final, experts))
        of_token.append(share_explained(known.common[TOKEN], each, experts).share)
        of_pair.append(share_explained(known.common[PAIR], each, experts).share)
        frequent.append(_by_frequency(known, each, shared, _mean(shares[-1]), experts))
        matched.append(matching(each, final, known.group, weight, experts))
        chance.append(by_chance(each, final, known.group, weight, experts, permutations, rng))
    out["by_token_id"] = BY_DATASET, np.array(by_id)
    out["beyond_token_id"] = BY_DATASET, np.array(covered) - np.array(by_id)
    out["token_share"] = BY_DATASET, np.array(of_token)
    out["context_added"] = BY_DATASET, np.array(of_pair) - np.array(of_token)
    out["frequency_saturation"] = ("checkpoint", "draw", "frequency"), np.array(frequent)
    of_matching = ("matched_saturation", "matching_gain", "kept_numbers")
    for name, part in zip(of_matching, Matching(*np.array(matched).swapaxes(0, 1)), strict=True):
        out[name] = ("checkpoint", "draw"), part
    for name, part in zip(("null_matched_saturation", "null_matching_gain"), np.array(chance).T, strict=True):
        out[name] = ("checkpoint", "draw"), np.repeat(part[:, None], 1 + GROUPS, axis=1)
    return out


def _saturation(
    known: _Tokens, selected: list[np.ndarray], shares: list[np.ndarray], one: int, other: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Saturation of checkpoint `one` against an `other`, what loads alone give of it, and what is left corrected for
    that: (draw, 1 + dataset) each, NaN if there is no other one."""
    if other < 0:
        nothing = np.full((1 + GROUPS, 1 + known.datasets), np.nan)
        return nothing, nothing, nothing
    rank = selected[one].shape[1]
    observed = _ratio(known.sums(in_common(selected[one], selected[other]) / rank), known.sums())
    chance = np.einsum("wde,we->wd", shares[one], _mean(shares[other])) / rank
    observed, chance = _with_mean(observed), _with_mean(chance)
    return observed, chance, _ratio(observed - chance, 1 - chance)


def _by_frequency(
    known: _Tokens, selected: np.ndarray, shared: np.ndarray, final: np.ndarray, experts: int
) -> np.ndarray:
    """The saturation of tokens whose ids occur so often, corrected for loads: (draw, frequency) float64.

    From what each token has in common with the last checkpoint, and the loads of that, (draw, expert).
    """
    label, labels = known.frequent, len(FREQUENCIES)
    observed = _ratio(_sums(label, labels, known.group, shared), _sums(label, labels, known.group))
    share = _shares(label, labels, known.group, selected, experts)
    chance = np.einsum("wfe,we->wf", share, final) / selected.shape[1]
    return _ratio(observed - chance, 1 - chance)


def _settled(corrected: xr.DataArray, at: np.ndarray | None) -> xr.DataArray:
    """After which share of training the corrected saturation is a half, without the dimension `checkpoint`."""
    values = corrected.transpose("checkpoint", ...)
    if at is None or len(at) < FEWEST:
        return xr.full_like(values.isel(checkpoint=0, drop=True), np.nan)
    return values.isel(checkpoint=0, drop=True).copy(data=crossing(values.values, at / at[-1], 0.5))


def _gained(share: xr.DataArray) -> xr.DataArray:
    """Which part of what a share gains through training is there at each checkpoint; NaN where it gains nothing."""
    base = share.isel(checkpoint=0, drop=True)
    whole = share.isel(checkpoint=-1, drop=True) - base
    return (share - base) / whole.where(whole > 1e-6)


def _loads(draws: xr.Dataset, method: Bootstrap) -> xr.Dataset:
    """The measures of loads with intervals, from their draws."""
    out = summarise(draws[list(OF_LOADS)], MEASURES, method)
    out["load"] = draws["load"]
    measure = MEASURES["information"]
    for prefix, mean in (("", ""), (MEAN, ", mean over layers")):
        values = draws["information"] if not prefix else draws["information"].mean("layer")
        first = values.isel(checkpoint=[0] * values.sizes["checkpoint"]).assign_coords(checkpoint=values["checkpoint"])
        found = method.difference(values, first, measure.bounds, measure.bias)
        words = MEASURES["information_gained"]
        attrs = {"long_name": words.title + mean, "units": words.units, "formula": words.formula}
        out[f"{prefix}information_gained"] = found.assign_attrs(attrs)
    return out


def frequent_ids(text: xr.Dataset, datasets: int, number: int, texts: Callable[[np.ndarray], list[str]]) -> np.ndarray:
    """At most so many of the most frequent token ids, all datasets weighing the same: (token_id,) int64.

    Those whose text has a letter come before the others, if they are among the hundred most frequent.
    """
    ids, code = np.unique(text["token_id"].values, return_inverse=True)
    dataset = text["dataset"].values
    held = np.bincount(dataset, minlength=datasets)
    share = np.bincount(code, 1 / held[dataset])
    often = ids[np.argsort(-share, kind="stable")[:100]].astype(np.int64)
    words = (ESCAPED.sub("", one) for one in texts(often))
    plain = np.array([not any(map(str.isalpha, one)) for one in words], dtype=bool)
    return often[np.argsort(plain, kind="stable")[:number]]


def _first_choices(token_id: np.ndarray, shown: np.ndarray, selected: list[np.ndarray], experts: int) -> np.ndarray:
    """The share of each id's tokens whose first choice is each expert: (token_id, checkpoint, expert) float64."""
    found = []
    for one in shown:
        mine = token_id == one
        found.append([np.bincount(each[mine, 0], minlength=experts) / mine.sum() for each in selected])
    return np.array(found)


def table(metrics: xr.Dataset) -> pd.DataFrame:
    """The measures as rows (`summary.table`)."""
    return summary.table(metrics, [name for name in MEASURES if name not in ("load", "first_choices")])
