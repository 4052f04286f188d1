"""Token overlap: do the experts of a layer share their vocabulary?

N(x, e) is how many tokens with the id x select expert e among their k, and V_e the multiset of token ids that e gets.
Two experts are compared by how often they get each id, weighted Jaccard (Ruzicka), and by which ids they get at all,
Jaccard. The second grows with the number of tokens, so the sets are rarefied: what counts is the set of ids in a random
sample of m of an expert's tokens, for all experts the same m. Of identical experts the first is 1, the second less.

The null is the same measure after the selections of all tokens have been permuted among them: routing that does not
depend on the token, with the same sets of experts as often as observed. It is below 1 because counts are finite.
Intervals are those of the jackknife over groups of clusters.
"""

import zlib
from collections.abc import Callable, Iterable

import numba
import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial.distance import squareform

from gatebook.chapters.token_overlap import MEASURES
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import summary, uncertainty
from gatebook.measures.summary import MEAN, Jackknife, Measured, summarise
from gatebook.measures.vocabulary import Occurrences, count, occurrences, sample_sizes
from gatebook.study.routed import Layer

CERTAIN = 40
"""exp(-40) is nothing beside 1: an id that is expected so many times in a sample is there."""


def weighted_jaccard(number: np.ndarray) -> np.ndarray:
    """Weighted Jaccard of all pairs of experts, float64 (pair,), from N(x, e) (expert, type); NaN without tokens.

    Pairs are in the order of `numpy.triu_indices`.
    """
    total = number.sum(axis=1)
    minima = np.zeros((len(total), len(total)))
    _add_minima(np.ascontiguousarray(number.T), 1 / np.maximum(total, 1), np.zeros(len(total)), minima)
    return _jaccard(minima, np.where(total > 0, minima.diagonal(), np.nan))


def _jaccard(both: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Intersection by union of all pairs of experts, (pair,), from intersections (expert, expert) and sizes."""
    first, second = np.triu_indices(len(alone), 1)
    shared = both[first, second]
    return shared / (alone[first] + alone[second] - shared)


@numba.njit(cache=True)
def _add_minima(number, scale, share, minima):
    """Add to minima[i, j] the sum over types of the smaller of the shares of i and j, which are `number` (type, expert)
    times `scale` (expert,); `share` (expert,) is room for those of one type."""
    experts = len(scale)
    for type_ in range(len(number)):
        for expert in range(experts):
            share[expert] = number[type_, expert] * scale[expert]
        for expert in range(experts):
            one, row = share[expert], minima[expert]
            if one > 0:
                for other in range(experts):  # half of them would do, but without vector instructions
                    row[other] += one if one < share[other] else share[other]


def rarefied_jaccard(number: np.ndarray, tokens: int) -> np.ndarray:
    """Jaccard of the ids in `tokens` random tokens of each expert, float64 (pair,), from N(x, e) (expert, type).

    The ratio of the expected sizes of intersection and union. A sample of m of the n tokens of an expert misses an id
    with probability C(n - N, m) / C(n, m), the product of (n - m - j) / (n - j) over j < N, which is less than
    exp(-N m / n). NaN for experts with fewer than `tokens` tokens.
    """
    total = number.sum(axis=1)
    counts = np.arange(min(number.max(initial=0), CERTAIN * total.max(initial=0) // tokens + 1))
    rest = np.maximum(total[:, None] - counts, 1)
    missing = np.cumprod(np.maximum(rest - tokens, 0) / rest, axis=1)
    present = np.zeros(number.T.shape)
    _fill_present(np.ascontiguousarray(number.T), missing, present)
    return _jaccard(present.T @ present, np.where(total >= tokens, present.sum(axis=0), np.nan))


@numba.njit(cache=True)
def _fill_present(number, missing, present):
    """Set `present`, zeros, where N(x, e) = number (type, expert) is not 0: 1 - missing[e, min(N, its length) - 1]."""
    for type_ in range(number.shape[0]):
        for expert in range(number.shape[1]):
            if number[type_, expert] > 0:
                present[type_, expert] = 1 - missing[expert, min(number[type_, expert], missing.shape[1]) - 1]


def measure(
    tokens: xr.Dataset,
    layers: Iterable[Layer],
    *,
    permutations: int,
    rarefied_tokens: int,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter, from the tokens of a study and its layers.

    Everything is pooled and about input tokens.

    Parameters
    ----------
    tokens
        Those of the study, see `routed.read`.
    layers
        In order, see `routed.read_layers`.
    permutations
        Of the selections among the tokens, for the nulls.
    rarefied_tokens
        Tokens that each expert is rarefied to.
    seed
        Of the permutations.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `weighted_jaccard` and `rarefied_jaccard` (layer, expert, other): estimates of all pairs, NaN on the diagonal;
        `null_*`: their means over permutations; `null_mean_*` (layer, interval) and `mean_over_layers_null_mean_*`
        (interval): the mean over pairs, over permutations and between which limits it lies. `mean_*` (dataset, layer,
        interval): the mean over pairs, which `mean_over_layers_mean_*` averages over layers, and `rise_*` (dataset,
        interval) that of the last layer minus that of the first. `tokens`, `documents`, `clusters` (dataset). The only
        entry of `dataset` is "pooled".
    """
    found = occurrences(tokens, "input", uncertainty.POOLED)
    functions = {
        "weighted_jaccard": weighted_jaccard,
        "rarefied_jaccard": lambda number: rarefied_jaccard(number, rarefied_tokens),
    }
    numbers, per_layer = [], []
    for layer in layers:
        numbers.append(layer.number)
        rng = np.random.default_rng([seed, layer.number, zlib.crc32(b"token_overlap")])
        per_layer.append(_layer(found, layer.selected, layer.experts, functions, permutations, rng))
    parts = xr.concat(per_layer, dim="layer").assign_coords(layer=numbers)
    pooled = {"dataset": [uncertainty.POOLED], "layer": numbers}
    draws = {f"mean_{name}": parts[f"{name}_draws"].expand_dims(dataset=[uncertainty.POOLED]) for name in functions}
    values, method = xr.Dataset(draws, coords=pooled), Jackknife(confidence)
    out = summarise(values, MEASURES, method)
    for name in functions:
        measure, draws = MEASURES[f"mean_{name}"], values[f"mean_{name}"]
        independent = {"long_name": f"{measure.title}, token-independent routing", "units": measure.units}
        out[name] = _matrices(parts[name]).assign_attrs(long_name=measure.title, units=measure.units)
        out[f"null_{name}"] = _matrices(parts[f"null_{name}"]).assign_attrs(independent)
        permuted = parts[f"{name}_permuted"]
        for prefix, part in (("", permuted), (MEAN, permuted.mean("layer"))):
            null = uncertainty.chance(part, confidence, "permutation")
            out[f"{prefix}null_mean_{name}"] = null.assign_attrs(independent)
        rise = method.interval(draws.isel(layer=-1) - draws.isel(layer=0), (-1, 1))
        out[f"rise_{name}"] = rise.assign_attrs(
            long_name=f"{measure.title}, last layer minus first", units=measure.units
        )
    out["tokens"] = ("dataset", [tokens.sizes["token"]], {"long_name": "tokens", "units": "tokens"})
    out = out.merge(sample_sizes(tokens).isel(dataset=[0]))
    attrs = {
        "pooled_datasets": tokens.sizes["name"],
        "groups": GROUPS,
        "permutations": permutations,
        "rarefied_tokens": rarefied_tokens,
    }
    return Measured(out.assign_attrs(attrs | {"seed": seed, "confidence": confidence}), values)


def _layer(
    found: Occurrences,
    selected: np.ndarray,
    experts: int,
    functions: dict[str, Callable[[np.ndarray], np.ndarray]],
    permutations: int,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Every function of all pairs and its mean over permutations, (pair,), and the draws of the means over pairs.

    And their means over pairs in every permutation.
    """
    types = len(found.token_id)
    orders = (rng.permutation(len(selected)) for _ in range(permutations))
    shuffled = [count(found.code, np.take(selected, order, axis=0), types, experts) for order in orders]
    out = {}
    for name, function in functions.items():
        permuted = [function(number) for number in shuffled]
        out[f"null_{name}"] = ("pair", np.mean(permuted, axis=0))
        out[f"{name}_permuted"] = ("permutation", [_mean(pairs) for pairs in permuted])
    draws = {name: [] for name in functions}
    for number in without_groups(found, selected, experts):
        for name, function in functions.items():
            pairs = function(number)
            out.setdefault(name, ("pair", pairs))
            draws[name].append(_mean(pairs))
    return xr.Dataset(out | {f"{name}_draws": ("draw", values) for name, values in draws.items()})


def without_groups(found: Occurrences, selected: np.ndarray, experts: int) -> Iterable[np.ndarray]:
    """N(x, e) of all groups of clusters, then without each of them: (expert, type)."""
    whole = count(found.code, selected, len(found.token_id), experts)
    yield whole
    for group in found.groups:
        left = whole.copy(order="K")
        left[:, group.types] -= count(group.code, np.take(selected, group.members, axis=0), len(group.types), experts)
        yield left


def table(metrics: xr.Dataset) -> pd.DataFrame:
    """The measures and how they rise over layers as rows (`summary.table`), and `token_independent`, their null."""
    names = ("weighted_jaccard", "rarefied_jaccard")
    measures = [f"{part}_{name}" for part in ("mean", "rise") for name in names]
    return summary.table(metrics, measures, null="token_independent")


def _mean(pairs: np.ndarray) -> float:
    """Mean over the pairs that are defined, NaN if there is none."""
    known = pairs[np.isfinite(pairs)]
    return float(known.mean()) if len(known) else np.nan


def _matrices(pairs: xr.DataArray) -> xr.DataArray:
    """Values of pairs (layer, pair) as symmetric matrices (layer, expert, other), NaN on the diagonal."""
    matrices = np.array([squareform(vector, checks=False) for vector in pairs.values])
    experts = np.arange(matrices.shape[-1])
    matrices[:, experts, experts] = np.nan
    return xr.DataArray(
        matrices, {"layer": pairs["layer"], "expert": experts, "other": experts}, ("layer", "expert", "other")
    )
