"""Similarity: how alike are the experts of a layer, in what they give, in their weights, and to the router?

`geometry` compares the experts of one layer; here its matrices over pairs of experts become means with
intervals. Measures of outputs rest on sampled tokens: their intervals are those of the jackknife over groups of
documents, with the mean output of each expert held fixed. Weights have no sample: intervals of all other measures are
those of the jackknife over experts, and say how the mean would vary with other experts of the same kind.

Nulls: Gaussian experts with the same shapes and scales on the same tokens ("random experts"), the same outputs with the
tokens of one expert permuted ("permuted tokens"), and experts renamed in one of two matrices ("permuted experts").
"""

from collections.abc import Iterable

import numpy as np
import scipy.stats
import xarray as xr

from gatebook.chapters.similarity import MEASURES
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty
from gatebook.measures.summary import Jackknife, Measured, summarise

OUTPUTS = ("output_cosine", "mean_removed_cosine", "co_routed_cosine", "cka", "biased_cka")
PAIRS = (
    "weight_cosine", "matched_weight_cosine", "weight_gram", "subspace_overlap", "router_cosine",
    "gained_router_cosine",
)  # fmt: skip
SPACES = ("read_overlap", "write_overlap", "next_overlap")
"""Which spaces of experts are held against which router's: what they read and write, its own and the next layer's."""
CORRELATIONS = ("lift_correlation", "overlap_correlation")


def measure(
    sample: xr.Dataset,
    layers: Iterable[xr.Dataset],
    *,
    lift: xr.DataArray,
    overlap: xr.DataArray,
    permutations: int,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter from a study's sampled tokens and its layers.

    Parameters
    ----------
    sample
        The sampled tokens, see `samples.read`.
    layers
        Those of `geometry.layers`, in order.
    lift, overlap
        Co-activation and token overlap of all pairs, NaN where undefined: (layer, expert, other).
    permutations
        Of the experts, for the p-values of correlations.
    seed
        Of these.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        Each of `MEASURES` is (dataset, layer, interval) with the only dataset "pooled", `mean_over_layers_*` (dataset,
        interval) its average over the layers where it is defined. `random_value` (measure, layer, interval) and
        `mean_over_layers_random_value` (measure, interval): its value for random experts or directions, with an
        interval where these were drawn. `permuted_value` (measure, layer): its value for permuted tokens, NaN if it has
        none. `p_*` (layer,): two-sided p-values of the `CORRELATIONS`, and `mean_over_layers_p_*`. Matrices of
        estimates (layer, expert, other) float32: `pair_*` for `OUTPUTS` and `PAIRS`; `co_routed_tokens`;
        `alignment(layer, expert, router)`; `layer_overlap(layer, other_layer)`; `principal_angle` and
        `random_principal_angle` (layer, direction) in degrees; `router_angle` and `random_router_angle` (space,
        spanned, interval) in degrees, means over layers: between the spaces of `SPACES`, or random ones, and the
        router's. The attribute `router_share` is the share of all directions that a router's space has.
    """
    draws, kept, directions, permuted = {name: [] for name in MEASURES}, [], [], []
    angles = {f"{part}angle_{name}": [] for part in ("", "random_") for name in SPACES}
    randoms, permuted_values = [], []
    for layer in layers:
        number = int(layer["layer"])
        for name in OUTPUTS:
            draws[name].append(mean_over_pairs(layer[name].values))
        for name in PAIRS:
            draws[name].append(pair_means_without_each(layer[name].values))
        for name in ("effective_rank", "participation_ratio", *SPACES):
            draws[name].append(means_without_each(layer[name].values))
        draws["router_alignment"].append(means_without_each(aligned_share(layer["alignment"].values)))
        for index, (name, other) in enumerate(zip(CORRELATIONS, (lift, overlap), strict=True)):
            pairs = layer["mean_removed_cosine"].values[0], other.sel(layer=number).values
            draws[name].append(correlation_draws(*pairs))
            permuted.append(permuted_correlations(*pairs, permutations, np.random.default_rng([seed, number, index])))
        for name, parts in angles.items():
            values = layer[name].values
            parts.append(values if name.startswith("random") else means_without_each(values))
        randoms.append(_random(layer))
        permuted_values.append([float(mean_over_pairs(layer[f"permuted_{name}"].values)) for name in OUTPUTS])
        kept.append(_kept(layer))
        directions.append(layer["router_direction"].values)
    out = xr.concat(kept, dim="layer").assign_coords(measure=list(MEASURES))
    random = xr.concat(randoms, dim="layer").transpose("measure", "layer", "draw")
    attributes = {"long_name": "value for random experts or directions", "units": "that of the measure"}
    out["random_value"] = uncertainty.jackknife(random, confidence).assign_attrs(attributes)
    averaged = uncertainty.jackknife(random.mean("layer"), confidence)
    out["mean_over_layers_random_value"] = averaged.assign_attrs(attributes)
    values = xr.DataArray(np.array(permuted_values).T, {"measure": list(OUTPUTS)}, ("measure", "layer"))
    attributes = {"long_name": "value for permuted tokens", "units": "1"}
    out["permuted_value"] = values.reindex(measure=list(MEASURES)).assign_attrs(attributes)
    between = layer_overlaps(np.array(directions))
    draws["router_space_overlap"] = _mean(between, axis=2).T
    out["layer_overlap"] = (("layer", "other_layer"), between[0])
    for part in ("", "random_"):
        out[f"{part}router_angle"] = _angles([angles[f"{part}angle_{name}"] for name in SPACES], confidence)
    out = out.assign_coords(other_layer=out["layer"].values, dataset=[uncertainty.POOLED])
    values = xr.Dataset(coords={"dataset": [uncertainty.POOLED], "layer": out["layer"]})
    for name, parts in draws.items():
        draw = "draw" if name in OUTPUTS else "draw_of_readers" if name == "read_overlap" else "draw_of_experts"
        values[name] = (("dataset", "layer", draw), np.array(parts)[None])
    out = out.merge(summarise(values, MEASURES, Jackknife(confidence)))
    by_correlation = np.array(permuted).reshape(len(kept), len(CORRELATIONS), permutations).swapaxes(0, 1)
    for name, chance in zip(CORRELATIONS, by_correlation, strict=True):
        observed = np.array(draws[name])[:, 0]
        out[f"p_{name}"] = ("layer", p_value(observed, chance.T), {"long_name": "two-sided p-value", "units": "1"})
        whole = p_value(_mean(observed, axis=0), _mean(chance, axis=0))
        out[f"mean_over_layers_p_{name}"] = ((), whole, {"long_name": "two-sided p-value of the mean", "units": "1"})
    out["tokens"] = ("dataset", [sample.sizes["sample"]], {"long_name": "sampled tokens", "units": "tokens"})
    for name in ("document", "cluster"):
        number = len(np.unique(sample[name].values))
        attributes = {"long_name": f"{name}s of the sampled tokens", "units": f"{name}s"}
        out[f"{name}s"] = ("dataset", [number], attributes)
    out.attrs = {
        "groups": GROUPS,
        "pooled_datasets": len(np.unique(sample["dataset"].values.astype(str))),
        "permutations": permutations,
        "seed": seed,
        "confidence": confidence,
        "router_share": min(directions[0].shape) / directions[0].shape[1],
    }
    return Measured(out, values)


def mean_over_pairs(values: np.ndarray) -> np.ndarray:
    """The mean over pairs of different experts, the last two axes of `values`; undefined pairs (NaN) are left out."""
    return _mean(values[..., ~np.eye(values.shape[-1], dtype=bool)], axis=-1)


def pair_means_without_each(values: np.ndarray) -> np.ndarray:
    """`mean_over_pairs` of values (expert, other), then the same without each expert in turn: (1 + experts,)."""
    return np.array([mean_over_pairs(part) for part in _parts(values)])


def means_without_each(values: np.ndarray) -> np.ndarray:
    """The mean of values (expert, ...), then without each expert: (1 + experts, ...)."""
    without = (np.delete(values, one, axis=0).mean(axis=0) for one in range(len(values)))
    return np.array([values.mean(axis=0), *without])


def aligned_share(alignment: np.ndarray) -> np.ndarray:
    """Share of the other routers' rows that each expert reads less than its own, from (expert, router): (expert,).

    1 when an expert reads its own row most, 0.5 on average for random rows; ties count half.
    """
    own = np.diag(alignment)[:, None]
    lower = (alignment < own).sum(axis=1) + ((alignment == own).sum(axis=1) - 1) / 2
    return lower / (len(alignment) - 1)


def layer_overlaps(rows: np.ndarray) -> np.ndarray:
    """Overlap of the spaces that router rows (layer, expert, hidden) span, relative to random ones.

    With Q (hidden, r) an orthonormal basis of a layer's r = min(expert, hidden) rows: ||Q_l^T Q_m||^2 hidden / r^2,
    which is 1 on average for random spaces. Returns (1 + experts, layer, layer), NaN on the diagonal: of all rows, then
    without row e of every layer, for each e.
    """
    layers, experts, hidden = rows.shape
    basis, within = np.linalg.qr(rows.swapaxes(1, 2).astype(np.float64))
    flat = basis.swapaxes(0, 1).reshape(hidden, -1)
    shared = (flat.T @ flat).reshape(layers, -1, layers, basis.shape[2]).swapaxes(1, 2)
    found = []
    for left_out in range(-1, experts):
        # Rows lie in their basis, so that of fewer rows is found within it, from small matrices.
        part = np.linalg.qr(np.delete(within, left_out, axis=2) if left_out >= 0 else within)[0]
        rank = part.shape[2]
        squares = ((part.swapaxes(1, 2)[:, None] @ shared @ part) ** 2).sum(axis=(2, 3))
        np.fill_diagonal(squares, np.nan)
        found.append(squares * hidden / rank**2)
    return np.array(found)


def pair_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman correlation over pairs of experts of two symmetric matrices (expert, other).

    Pairs that are undefined in one of them are left out; NaN for fewer than 3 pairs and where one matrix is constant.
    """
    pairs = np.triu_indices(len(one), 1)
    known = np.isfinite(one[pairs]) & np.isfinite(other[pairs])
    if known.sum() < 3:
        return np.nan
    ranks = scipy.stats.rankdata(np.stack([one[pairs][known], other[pairs][known]]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    size = np.linalg.norm(ranks, axis=1).prod()
    return float(ranks[0] @ ranks[1] / size) if size > 0 else np.nan


def correlation_draws(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`pair_correlation`, then the same without each expert in turn: (1 + experts,)."""
    return np.array([pair_correlation(*parts) for parts in zip(_parts(one), _parts(other), strict=True)])


def permuted_correlations(
    one: np.ndarray, other: np.ndarray, permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """`pair_correlation` after the experts of `other` were permuted at random (Mantel, 1967): (permutations,).

    Experts of which `other` knows no pair stay where they are.
    """
    # Experts that are never selected have no pair in `other`. Permuted with the rest, they would leave out other pairs
    # of `one` in every permutation, and correlations over different pairs are not the null of the observed one.
    known = np.isfinite(np.where(np.eye(len(other), dtype=bool), np.nan, other)).any(axis=1)
    one, other = one[known][:, known], other[known][:, known]
    orders = (rng.permutation(len(one)) for _ in range(permutations))
    pairs = np.triu_indices(len(one), 1)
    if np.isfinite([one[pairs], other[pairs]]).all():  # then the ranks of pairs move with them, and need no sorting
        one, other = _ranks(one), _ranks(other)
        size = np.linalg.norm(one) * np.linalg.norm(other)
        return np.array([np.vdot(one, other[order][:, order]) / size if size > 0 else np.nan for order in orders])
    return np.array([pair_correlation(one, other[order][:, order]) for order in orders])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks less their mean of the pairs of a symmetric matrix (expert, other), 0 on the diagonal."""
    pairs, ranks = np.triu_indices(len(values), 1), np.zeros(values.shape)
    if len(pairs[0]):
        ranks[pairs] = scipy.stats.rankdata(values[pairs])
        ranks[pairs] -= ranks[pairs].mean()
    return ranks + ranks.T


def p_value(observed: np.ndarray, permuted: np.ndarray) -> np.ndarray:
    """Share of values as far from 0 as `observed` (...) among itself and the `permuted` ones (permutation, ...)."""
    extreme = (np.abs(permuted) >= np.abs(observed) - 1e-12).sum(axis=0)
    return np.where(np.isfinite(observed), (1 + extreme) / (1 + len(permuted)), np.nan)


def _random(layer: xr.Dataset) -> xr.DataArray:
    """The random values of one layer's measures, of all random experts and without each of them: (measure, draw)."""
    parts = layer.sizes["part"]
    values = [
        layer[f"random_{name}"].values if f"random_{name}" in layer else np.full(parts, MEASURES[name].null)
        for name in MEASURES
    ]
    coords = {"measure": list(MEASURES), "layer": layer["layer"]}
    return xr.DataArray(np.array(values), coords, ("measure", "draw"))


def _angles(spaces: list[list[np.ndarray]], confidence: float) -> xr.DataArray:
    """Means over layers with intervals, (space, spanned, interval), from the draws (draw, spanned) of layers."""
    found = [
        uncertainty.jackknife(xr.DataArray(_mean(np.array(layers), axis=0), dims=("draw", "spanned")), confidence)
        for layers in spaces
    ]
    attributes = {"long_name": "principal angle, mean over experts and layers", "units": "degrees"}
    return xr.concat(found, dim="space").assign_coords(space=list(SPACES)).assign_attrs(attributes)


def _kept(layer: xr.Dataset) -> xr.Dataset:
    """The matrices of one layer that the metrics keep."""
    pairs = {f"pair_{name}": layer[name].isel(draw=0) for name in OUTPUTS} | {
        f"pair_{name}": layer[name] for name in PAIRS
    }
    pairs |= {name: layer[name] for name in ("alignment", "principal_angle", "random_principal_angle")}
    long_names = {"alignment": "how strongly an expert reads a router row: a(e, j)"}
    out = {}
    for name, array in pairs.items():
        measure = MEASURES.get(name.removeprefix("pair_"))
        long_name = measure.title if measure else long_names.get(name, name.replace("_", " "))
        attributes = {"long_name": long_name, "units": "degrees" if "angle" in name else "1"}
        out[name] = array.astype(np.float32).assign_attrs(attributes)
    tokens = {"long_name": "sampled tokens that select both experts", "units": "tokens"}
    return xr.Dataset(out).assign(co_routed_tokens=layer["co_routed_tokens"].assign_attrs(tokens))


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """A matrix (expert, other), then the same without each expert."""
    each = range(len(values))
    return [values, *(np.delete(np.delete(values, one, axis=0), one, axis=1) for one in each)]


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over an axis without NaN; NaN where there is nothing."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=axis) / known.sum(axis=axis)
