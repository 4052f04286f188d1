"""Factors: a router input x as a sum of parts, (x - m) / s = sum_f g_f d_f + rest, with few g_f > 0 and none below 0.

m and s are the mean and the mean distance from it in the half of the clusters that directions d are fitted to; all
measures are of the other half. A factor is found again if a fit with another seed has a direction of nearly its own.
Intervals are those of the jackknife over groups of clusters of the other half, of the directions as they were fitted.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from gatebook.chapters.factors import CLASSES, MEASURES
from gatebook.chapters.factors.learning import activations, components, gaussian, learn, matched
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import contexts, uncertainty
from gatebook.measures.explained import variance_explained
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.measures.token_sample import documents_of, sizes
from gatebook.measures.uncertainty import without_each

PER_TOKEN = 2
"""Of the examples of a factor at most so many are of the same token id."""
NONE = -1


class Layer(NamedTuple):
    """What a layer's router received for the sampled tokens, and what it chose.

    layer: its number; states (sample, hidden) float32; selected (sample, expert) bool.
    """

    layer: int
    states: np.ndarray
    selected: np.ndarray


class Sample(NamedTuple):
    """The sampled tokens: each (sample,). group: of its cluster; fitted: whether directions are fitted to its cluster;
    classes: the values of `CLASSES`, by their names."""

    place: np.ndarray
    dataset: np.ndarray
    group: np.ndarray
    fitted: np.ndarray
    classes: Mapping[str, np.ndarray]


def sample(study: xr.Dataset, place: np.ndarray, token_type: np.ndarray, seed: int) -> Sample:
    """What is known of the tokens `place` (sample,) of a study, whose types are `token_type` (sample,).

    Every second cluster of a dataset, in a random order, is fitted to; clusters that datasets share are settled once.
    """
    dataset, cluster = study["dataset"].values[place], study["cluster"].values[documents_of(study)[place]]
    side: dict[int, bool] = {}
    for index, name in enumerate(study["name"].values.tolist()):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        new = [each for each in np.unique(cluster[dataset == index]).tolist() if each not in side]
        side |= {each: turn % 2 == 0 for turn, each in enumerate(rng.permutation(new).tolist())}
    token_id = study["token_id"].sel(kind="input").values[place]
    fitted = np.array([side[each] for each in cluster.tolist()], dtype=bool)
    classes = dict(zip(CLASSES, (token_id, dataset, token_type), strict=True))
    return Sample(place, dataset, study["group"].values[place].astype(np.int64), fitted, classes)


def measure(
    study: xr.Dataset, sampled: Sample, layers: Iterable[Layer], settings: Mapping, *, confidence: float
) -> Measured:
    """All measures of the chapter, layer by layer.

    Parameters
    ----------
    study, sampled
        Its tokens (`routed.read_tokens`), and those of which there are states.
    layers
        In order.
    settings
        Of the chapter: number, sparsity, passes, seeds, again, examples, seed.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `found_factors`, `found_elsewhere` (layer,); `found_variance`, `variance`, `component_variance`, `active`,
        `expert_correlation` (layer, interval); `explained` (class, layer, interval); and their means over layers;
        `null_*` of Gaussian vectors, and of `expert_correlation` of tokens permuted in datasets. Of each factor that
        is found again, the most active first (layer, factor): `factor_cosine`, `factor_share` of its activation among
        that of all factors, `factor_tokens`, the share of tokens in which it is active, `factor_explained` (class,
        layer, factor), `factor_expert`, `factor_correlation` with all experts (layer, factor, expert),
        `factor_expert_correlation` (layer, factor, interval), `factor_null`, `factor_q_value`, and `factor_example`
        (layer, factor, example) int64, places among the study's tokens with the highest activation. Where a layer has
        fewer factors they are NaN, or -1.
    """
    found = [_of_layer(one, sampled, settings, confidence) for one in layers]
    join = {"dim": "layer", "coords": "minimal", "compat": "override"}
    draws = xr.concat([one.draws for one in found], **join)
    metrics = summarise(draws, MEASURES, Jackknife(confidence))
    most = max(one.factors.sizes["factor"] for one in found)
    padded = [_padded(one.factors, max(most, 1)) for one in found]
    metrics = metrics.merge(xr.concat([one.about for one in found], **join)).merge(xr.concat(padded, **join))
    for name in ("found_factors", "found_elsewhere"):
        about = MEASURES[name]
        metrics[name].attrs = {"long_name": about.title, "units": about.units, "formula": about.formula}
    held_out = sizes(study, sampled.place[~sampled.fitted])
    metrics = metrics.merge(held_out.assign_coords(dataset=[uncertainty.POOLED, *study["name"].values.tolist()]))
    metrics.attrs = {"confidence": confidence, "fitted_tokens": int(sampled.fitted.sum()), "groups": GROUPS}
    metrics.attrs |= {key: settings[key] for key in ("number", "sparsity", "again")}
    return Measured(metrics, draws)


class _Found(NamedTuple):
    """draws (draw,) of what has intervals; about: what has none; factors: of each factor found again."""

    draws: xr.Dataset
    about: xr.Dataset
    factors: xr.Dataset


def _of_layer(one: Layer, sampled: Sample, settings: Mapping, confidence: float) -> _Found:
    """What is found of one layer."""
    states, fitted = one.states.astype(np.float64), sampled.fitted
    states -= states[fitted].mean(axis=0)
    states /= max(np.linalg.norm(states[fitted], axis=1).mean(), 1e-30)
    rng = np.random.default_rng([settings["seed"], one.layer])
    random = gaussian(states[fitted], len(states), rng)
    options = {key: settings[key] for key in ("number", "sparsity", "passes")}

    def fit(rows: np.ndarray, seed: int) -> np.ndarray:
        return learn(rows, seed=seed, **options)

    directions, cosine = _twice(fit, states[fitted], settings["seeds"])
    of_random, random_cosine = _twice(fit, random[fitted], settings["seeds"])
    elsewhere = matched(directions, fit(states[~fitted], settings["seeds"][1]))
    codes = activations(states, directions, settings["sparsity"])
    random_codes = activations(random[~fitted], of_random, settings["sparsity"])
    held_out, group, test = codes[~fitted], sampled.group[~fitted], states[~fitted]
    again = cosine > settings["again"]
    order = np.argsort(-held_out.sum(axis=0), kind="stable")
    order = order[again[order]]
    axes = components(states[fitted], settings["number"])

    def rest(codes: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return ((test - codes @ directions) ** 2).sum(axis=1)

    parts = np.stack(
        [
            (test**2).sum(axis=1),
            rest(held_out[:, again], directions[again]),
            rest(held_out, directions),
            rest(test @ axes.T, axes),
            (held_out > 0).sum(axis=1),
            np.ones(len(test)),
        ],
        axis=1,
    )
    sums = _without_each(parts, group)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = 1 - sums[:, 1:4] / sums[:, :1]
        draws = dict(zip(("found_variance", "variance", "component_variance"), values.T, strict=True))
        draws["active"] = sums[:, 4] / sums[:, 5]
    draws = {name: ("draw", each) for name, each in draws.items()}
    explained = [variance_explained(sampled.classes[name][~fitted], group, held_out[:, order]) for name in CLASSES]
    experts = _experts(codes[:, order], one.selected, sampled)
    draws["explained"] = (("class", "draw"), _mean(np.array(explained)))
    draws["expert_correlation"] = ("draw", _mean(experts.own))
    draws["null_expert_correlation"] = ("draw", _mean(experts.within))
    draws = xr.Dataset(draws, {"class": list(CLASSES), "layer": one.layer})
    random_rest = ((random[~fitted] - random_codes @ of_random) ** 2).sum()
    found = random_cosine > settings["again"]
    found_rest = ((random[~fitted] - random_codes[:, found] @ of_random[found]) ** 2).sum()
    total = max((random[~fitted] ** 2).sum(), 1e-30)
    about = {
        "found_factors": again.mean(),
        "found_elsewhere": (elsewhere[again] > settings["again"]).mean() if again.any() else np.nan,
        "null_found_factors": found.mean(),
        "null_found_variance": 1 - found_rest / total,
        "null_variance": 1 - random_rest / total,
        "null_active": (random_codes > 0).sum(axis=1).mean(),
    }
    words = {"long_name": "the same of Gaussian vectors of the same covariance", "units": "1"}
    about = xr.Dataset({name: ((), each, words) for name, each in about.items()}, {"layer": one.layer})
    null = draws[["null_expert_correlation"]]
    null = uncertainty.jackknife(null["null_expert_correlation"], confidence, (-1, 1))
    words = {"long_name": "correlation that is left if tokens are permuted within each dataset", "units": "1"}
    about["null_expert_correlation"] = null.assign_attrs(words)
    factors = _factors(held_out[:, order], np.array(explained)[:, 0], experts, confidence)
    factors["factor_cosine"] = ("factor", cosine[order])
    factors["factor_share"] = ("factor", held_out.sum(axis=0)[order] / max(held_out.sum(), 1e-30))
    factors["factor_example"] = (("factor", "example"), _examples(held_out[:, order], sampled, settings["examples"]))
    return _Found(draws.drop_vars("null_expert_correlation"), about, factors.assign_coords(layer=one.layer))


def _twice(
    fit: Callable[[np.ndarray, int], np.ndarray], rows: np.ndarray, seeds: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The directions of the first of two fits, and the cosine of each with its partner in the second."""
    first, second = (fit(rows, seed) for seed in seeds)
    return first, matched(first, second)


def _without_each(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums over tokens of values (token, ...), and without each group: (draw, ...)."""
    sums = uncertainty.cluster_sums(values, group, GROUPS).reshape(GROUPS, *values.shape[1:])
    return without_each(xr.DataArray(sums).rename(dim_0="group")).values


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over factors, the last axis; NaN without factors."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(axis=-1), np.nan)


class _Experts(NamedTuple):
    """Factors and experts in the other half: expert (factor,); correlation of each factor with each expert (factor,
    expert); that with its own, and what of it datasets alone give: (draw, factor)."""

    expert: np.ndarray
    correlation: np.ndarray
    own: np.ndarray
    within: np.ndarray


def _experts(codes: np.ndarray, selected: np.ndarray, sampled: Sample) -> _Experts:
    """The expert of each factor, chosen in the half that it was fitted to, and its correlation in the other one."""
    fitted, selected = sampled.fitted, selected.astype(np.float64)
    if not codes.shape[1]:
        empty = np.zeros((1 + GROUPS, 0))
        return _Experts(np.zeros(0, np.int64), np.zeros((0, selected.shape[1])), empty, empty)
    chosen = np.nan_to_num(_correlation(codes[fitted], selected[fitted]), nan=-2).argmax(axis=1)
    code, expert = codes[~fitted], selected[~fitted]
    own = expert[:, chosen]
    group, dataset = sampled.group[~fitted], sampled.dataset[~fitted].astype(np.int64)
    datasets = dataset.max(initial=0) + 1
    values = np.stack([np.ones(code.shape), code, own, code**2, own**2, code * own], axis=1)
    sums = uncertainty.cluster_sums(values, group * datasets + dataset, GROUPS * datasets)
    sums = sums.reshape(GROUPS, datasets, *values.shape[1:])
    draws = without_each(xr.DataArray(sums).rename(dim_0="group")).values  # (draw, dataset, 6, factor)
    with np.errstate(invalid="ignore", divide="ignore"):
        number, first, second, first_square, second_square, product = np.moveaxis(draws.sum(axis=1), 1, 0)
        spread = np.sqrt(
            np.maximum(first_square - first**2 / number, 0) * np.maximum(second_square - second**2 / number, 0)
        )
        spread = np.where(spread > 1e-12, spread, np.nan)
        expected = np.nan_to_num(draws[:, :, 1] * draws[:, :, 2] / draws[:, :, 0]).sum(axis=1)
        within, all_of = ((part - first * second / number) / spread for part in (expected, product))
    return _Experts(chosen, _correlation(code, expert), all_of, within)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlations of columns: (first, second); NaN of one that does not vary."""
    first, second = (each - each.mean(axis=0) for each in (first, second))
    length = np.sqrt((first**2).sum(axis=0)[:, None] * (second**2).sum(axis=0))
    return first.T @ second / np.where(length > 1e-12, length, np.nan)


def _factors(codes: np.ndarray, explained: np.ndarray, experts: _Experts, confidence: float) -> xr.Dataset:
    """What is known of each factor found again (factor,)."""
    own, within = (xr.DataArray(each, dims=("draw", "factor")) for each in (experts.own, experts.within))
    beyond = uncertainty.jackknife(own - within, confidence)
    filled = sum(not np.array_equal(each, experts.own[0], equal_nan=True) for each in experts.own[1:])
    low, high = (beyond.sel(interval=end).values for end in ("low", "high"))
    error = (high - low) / 2 / scipy.stats.t.ppf((1 + confidence) / 2, max(filled - 1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = scipy.stats.t.sf(beyond.sel(interval="estimate").values / error, max(filled - 1, 1))
    q_value, known = np.full(len(p_value), np.nan), np.isfinite(p_value)
    if known.any():
        q_value[known] = scipy.stats.false_discovery_control(p_value[known])
    interval = uncertainty.jackknife(own, confidence, (-1, 1))
    return xr.Dataset(
        {
            "factor_tokens": ("factor", (codes > 0).mean(axis=0)),
            "factor_explained": (("class", "factor"), explained),
            "factor_expert": ("factor", experts.expert.astype(np.int64)),
            "factor_correlation": (("factor", "expert"), experts.correlation),
            "factor_expert_correlation": interval,
            "factor_null": ("factor", experts.within[0]),
            "factor_q_value": ("factor", q_value),
        },
        {"factor": np.arange(codes.shape[1])},
    )


def _examples(codes: np.ndarray, sampled: Sample, number: int) -> np.ndarray:
    """The places of the tokens with the highest activation of each factor: (factor, example) int64, -1 for none."""
    place, ids = (each[~sampled.fitted] for each in (sampled.place, sampled.classes[CLASSES[0]]))
    rng, found = np.random.default_rng(0), np.full((codes.shape[1], number), NONE, np.int64)
    for factor, code in enumerate(codes.T):
        at = np.flatnonzero(code > 0)
        highest, _ = contexts.choose(
            place[at], code[at], ids[at], highest=number, per_token=PER_TOKEN, random=0, rng=rng
        )
        found[factor, : len(highest)] = highest
    return found


FACTORS = {
    "factor_cosine": "cosine with the partner in the second fit",
    "factor_share": "share of the activation of all factors",
    "factor_tokens": "share of the tokens in which the factor is active",
    "factor_explained": "share of the activation that a class explains",
    "factor_expert": "expert that the factor goes with",
    "factor_correlation": "correlation of the factor with the selection of an expert",
    "factor_expert_correlation": "correlation of the factor with the selection of its expert",
    "factor_null": "correlation that is left if tokens are permuted within each dataset",
    "factor_q_value": "false discovery rate at which the factor goes with its expert beyond what datasets bring about",
    "factor_example": "place among the study's tokens of a token in which the factor is most active",
}


def _padded(factors: xr.Dataset, most: int) -> xr.Dataset:
    """The same with room for `most` factors."""
    found = factors.reindex(factor=np.arange(most), fill_value={"factor_expert": NONE, "factor_example": NONE})
    for name, long_name in FACTORS.items():
        found[name].attrs = {"long_name": long_name, "units": "1"}
    return found


def with_texts(metrics: xr.Dataset, texts: Callable[[np.ndarray], Mapping[str, list[str]]]) -> xr.Dataset:
    """The metrics with `factor_before`, `factor_text` and `factor_after` of the examples (layer, factor, example).

    texts gives `before`, `text` and `after` of places (n,); "" where there is no example.
    """
    places = metrics["factor_example"]
    known = np.unique(places.values[places.values != NONE])
    at = np.searchsorted(known, places.values)
    for name, found in texts(known).items():
        words = np.array([*found, ""], dtype=object)[np.where(places.values == NONE, len(known), at)]
        metrics[f"factor_{name}"] = (places.dims, words, {"long_name": f"{name} of an example of the factor"})
    return metrics


def factor_table(metrics: xr.Dataset) -> pd.DataFrame:
    """A row for each factor found again: what is known of it, and its examples, each “before[token]after”."""
    rows = []
    for layer in metrics["layer"].values.tolist():
        here = metrics.sel(layer=layer)
        for factor in np.flatnonzero(here["factor_expert"].values != NONE).tolist():
            one = here.sel(factor=factor)
            numbers = {name: float(one[f"factor_{name}"]) for name in ("cosine", "share", "tokens", "null", "q_value")}
            classes = {name: float(one["factor_explained"].sel({"class": name})) for name in CLASSES}
            own = one["factor_expert_correlation"]
            correlation = dict(zip(("correlation", "low", "high"), own.values.tolist(), strict=True))
            words = (one[f"factor_{name}"].values.tolist() for name in ("before", "text", "after"))
            examples = [f"{before}[{text}]{after}" for before, text, after in zip(*words, strict=True) if text]
            rows.append(
                {"layer": layer, "factor": factor}
                | {name: numbers[name] for name in ("cosine", "share", "tokens")}
                | classes
                | {"expert": int(one["factor_expert"])}
                | correlation
                | {"within_datasets": numbers["null"], "q_value": numbers["q_value"]}
                | {"examples": " | ".join(examples)}
            )
    columns = ["layer", "factor", "cosine", "share", "tokens", *CLASSES, "expert", "correlation", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "within_datasets", "q_value", "examples"])
