"""Maps: router inputs and expert outputs of sampled tokens, drawn in two dimensions, and what the pictures rest on.

A space is what is mapped in a layer: the router inputs x of the sampled tokens, or the outputs y = f_e(x) of the expert
e that each token selects first, not weighted. Distances are Euclidean. A map keeps neighbours at best, so the claims
rest on the spaces themselves: `agreement` is the share of a token's nearest tokens that have its label (its dataset,
its first expert, its token id), with tokens of its own source left out, because these share all labels more often. Near
tokens often have the same id, and so the same state and the same expert: the share is also taken among tokens of other
sources with other ids. Its null is the same share among all tokens that can be neighbours; for tokens without sources
that is the mean over all permutations of the labels. Intervals are those of the jackknife over groups of sources, which
leaves out a group's tokens and finds the neighbours anew.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import xarray as xr
from scipy.sparse.linalg import svds

from gatebook.chapters.maps import MEASURES
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import summary, uncertainty
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.problem import Problem

SPACES = ("router input", "expert output")
LABELS = ("dataset", "first expert", "token id")
OTHER_IDS = ("dataset, other ids", "first expert, other ids")
"""Labels whose neighbours also have another token id."""
PROJECTIONS = ("PCA", "UMAP", "t-SNE")
NEIGHBOURS = 10
COMPONENTS = 10
FEWEST_TOKENS = 40
UMAP_NEIGHBOURS, PERPLEXITY, ITERATIONS = 15, 30, 500  # of UMAP; of t-SNE, twice


@dataclass(frozen=True)
class Layer:
    """One layer's sampled tokens.

    states, outputs: (sample, hidden) float32, what the router received and what the first selected expert gave; first:
    (sample,) the first selected expert; mean_outputs: (expert, hidden) float32, what each expert gives on average over
    all sampled tokens.
    """

    number: int
    states: np.ndarray
    first: np.ndarray
    outputs: np.ndarray
    mean_outputs: np.ndarray


def measure(sample: xr.Dataset, layers: Iterable[Layer], *, points: int, seed: int, confidence: float) -> Measured:
    """All measures and maps of the chapter for a study's sampled tokens, layer by layer.

    Parameters
    ----------
    sample
        The sampled tokens, see `samples.read`, with their `contexts`.
    layers
        In order.
    points
        At most so many sampled tokens are in the maps.
    seed
        Of their draw, and with which UMAP and t-SNE start.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `agreement` (layer, dataset, space, label, interval): of the tokens of every dataset and of all, "pooled", for
        `LABELS` and `OTHER_IDS`; `null_agreement` (layer, dataset, label): its null; `separation` (layer, dataset,
        interval); `explained_variance` (layer, space, interval) and `component_variance` (layer, space, component):
        shares of the total variance. `mean_over_layers_*`: agreement, separation and explained variance averaged over
        layers.

        `map` (layer, space, projection, point, axis) float32: the positions of tokens, with their `point_dataset`,
        `point_token`, `point_expert` and the texts `point_before`, `point_text` and `point_after`; `mean_map` (layer,
        projection, expert, axis): the mean outputs of the experts in the map of expert outputs; `trustworthiness`
        (layer, space, projection).

    Raises
    ------
    Problem
        If fewer than `FEWEST_TOKENS` tokens are sampled.
    """
    tokens = sample.sizes["sample"]
    if tokens < FEWEST_TOKENS:
        raise Problem(
            f"config: extraction.sample.size: {tokens} sampled tokens in all are too few for maps: raise it until they "
            f"are {FEWEST_TOKENS}, or set it to 0 for a study without maps."
        )
    shown = np.sort(np.random.default_rng(seed).choice(tokens, min(points, tokens), replace=False))
    agreements, variances, pictures = [], [], []
    for layer in layers:
        agreements.append(_agreements(sample, layer))
        variances.append(_variances(sample["group"].values, layer))
        pictures.append(_pictures(layer, shown, seed))
    out = xr.concat(pictures, dim="layer").assign(null_agreement=xr.concat([one[1] for one in agreements], "layer"))
    agreement = xr.concat([one[0] for one in agreements], dim="layer")
    values = xr.Dataset(
        {
            "agreement": agreement,
            "separation": _separation(agreement),
            "explained_variance": xr.concat(variances, dim="layer"),
        }
    )
    for name in values:
        values[f"mean_over_layers_{name}"] = values[name].mean("layer", skipna=False)
    out = out.merge(summarise(values, MEASURES, Jackknife(confidence, together=True)))
    trust = MEASURES["trustworthiness"]
    out["trustworthiness"].attrs = {"long_name": trust.title, "units": trust.units, "formula": trust.formula}
    datasets = sample["dataset"].values
    groups = [np.ones(tokens, bool), *(datasets == name for name in out["dataset"].values[1:])]
    out["tokens"] = ("dataset", np.array([group.sum() for group in groups]))
    for name in ("document", "cluster"):
        numbers = [len(np.unique(sample[name].values[group])) for group in groups]
        out[f"{name}s"] = ("dataset", np.array(numbers), {"units": f"{name}s"})
    out["point_dataset"] = ("point", datasets[shown])
    out["point_token"] = ("point", sample["token_id"].values[shown])
    for name in ("before", "text", "after"):
        out[f"point_{name}"] = ("point", sample[name].values[shown])
    out.attrs = {"neighbours": NEIGHBOURS, "groups": GROUPS, "seed": seed, "confidence": confidence}
    out.attrs["hidden_size"] = layer.states.shape[1]
    return Measured(out, values)


def neighbour_counts(
    points: np.ndarray, apart: np.ndarray, group: np.ndarray, labels: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """How many of a token's nearest neighbours have its label, with all tokens and without each group of sources.

    Parameters
    ----------
    points
        (token, hidden).
    apart
        What neighbours have other values of than the token, such as its source, (kind, token) int.
    group
        The group of its source, (token,) int.
    labels
        (label, token).
    neighbours
        How many are nearest.

    Returns
    -------
    matching : numpy.ndarray
        Neighbours with the token's label, (draw, token, label) int. Draw 0 is with all tokens, draw g + 1 without those
        of group g.
    found : numpy.ndarray
        Neighbours, (draw, token) int: at most `neighbours`, 0 for the tokens left out.
    """
    from sklearn.metrics import pairwise_distances_chunked

    # So many nearest tokens hold the nearest ones that are left without any one group.
    candidates = min(len(points), neighbours + np.bincount(group).max())

    def count(distance: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(start, start + len(distance))
        distance[(apart[:, rows, None] == apart[:, None]).any(axis=0)] = np.inf
        nearest = np.argpartition(distance, candidates - 1, axis=1)[:, :candidates]
        nearest.sort(axis=1)  # equal distances: in the order of the tokens
        order = np.take_along_axis(distance, nearest, axis=1).argsort(axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        known = np.isfinite(np.take_along_axis(distance, nearest, axis=1))
        same = labels[:, nearest] == labels[:, rows, None]
        matching, found = [], []
        for left_out in range(-1, GROUPS):
            kept = known & (group[nearest] != left_out) & (group[rows, None] != left_out)
            kept &= kept.cumsum(axis=1) <= neighbours
            matching.append((same & kept).sum(axis=2).T)
            found.append(kept.sum(axis=1))
        return np.stack(matching, axis=1), np.stack(found, axis=1)

    blocks = pairwise_distances_chunked(points - points.mean(axis=0), reduce_func=count, working_memory=64)
    matching, found = zip(*blocks, strict=True)
    return np.concatenate(matching).swapaxes(0, 1), np.concatenate(found).T


def random_share(apart: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Share of the possible neighbours that have a token's label: (token,) float64, NaN where there are none.

    `apart` (kind, token) are what neighbours have other values of than the token.
    """
    share = np.full(len(label), np.nan)
    for token in range(len(label)):
        possible = (apart != apart[:, [token]]).all(axis=0)
        if possible.any():
            share[token] = (label[possible] == label[token]).mean()
    return share


def plane_variance(points: np.ndarray) -> float:
    """Share of the variance of points (token, hidden) on their first two principal components; NaN without variance."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    total = (centred**2).sum()
    if min(centred.shape) < 3 or total == 0:
        return np.nan
    start = np.random.default_rng(0).standard_normal(min(centred.shape))
    return float((svds(centred, k=2, v0=start, return_singular_vectors=False) ** 2).sum() / total)


def embed(points: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """UMAP and t-SNE of points (token, hidden): positions (token, 2) by projection; the same bytes for the same seed.

    UMAP is given the exact nearest neighbours: to search them itself it would compile code for longer than it maps.
    """
    # Imported here, because the report needs this module's words only.
    import numba
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits
    from umap import UMAP

    _keep_compiled()
    numba.config.THREADING_LAYER = "workqueue"  # the default one raises the number of OpenMP's threads for all code
    size = min(UMAP_NEIGHBOURS, len(points) - 1)
    distance, nearest = NearestNeighbors(n_neighbors=size).fit(points).kneighbors(points)
    umap = UMAP(
        n_neighbors=size,
        precomputed_knn=(nearest, distance),
        force_approximation_algorithm=True,
        random_state=seed,
        n_jobs=1,
    )
    tsne = TSNE(perplexity=min(PERPLEXITY, len(points) / 4), max_iter=ITERATIONS, random_state=seed, n_jobs=1)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.filterwarnings("ignore", message=".*knn_search_index.*")  # only needed to map more points later
        return {"UMAP": umap.fit_transform(points), "t-SNE": tsne.fit_transform(points)}


@cache  # once in a process
def _keep_compiled() -> None:
    """Keep what UMAP compiles on disk, beside its own code: only the first job waits for it."""
    from numba.core.registry import CPUDispatcher
    from umap import layouts, umap_

    for module in (layouts, umap_):
        for function in vars(module).values():
            if isinstance(function, CPUDispatcher) and function.__module__ == module.__name__:
                function.enable_caching()


def table(metrics: xr.Dataset) -> pd.DataFrame:
    """All measures but the maps as rows (`summary.table`), all of a dataset: those without are of the pooled tokens."""
    rows = summary.table(metrics, MEASURES)
    return rows.assign(dataset=rows["dataset"].replace("", uncertainty.POOLED))


def _agreements(sample: xr.Dataset, layer: Layer) -> tuple[xr.DataArray, xr.DataArray]:
    """Agreement (draw, dataset, space, label) of one layer, and its null (dataset, label)."""
    datasets = sample["dataset"].values
    named = (datasets, layer.first, sample["token_id"].values)
    codes = np.array([np.unique(label, return_inverse=True)[1] for label in named])
    source, group = sample["cluster"].values[None], sample["group"].values
    # Which labels are asked for among which neighbours.
    among = ((source, codes), (np.concatenate([source, codes[2:]]), codes[:2]))
    names = list(dict.fromkeys(datasets))
    # Rows of sums: all tokens, then those of each dataset.
    member = np.array([np.ones(len(datasets)), *(datasets == name for name in names)])
    coords = {"dataset": [uncertainty.POOLED, *names], "label": [*LABELS, *OTHER_IDS]}
    values = []
    for points in (layer.states, layer.outputs):
        parts = []
        for apart, labels in among:
            matching, found = neighbour_counts(points, apart, group, labels)
            parts.append(_ratio(np.einsum("mt,dtl->dml", member, matching), (found @ member.T)[..., None]))
        values.append(np.concatenate(parts, axis=2))
    agreement = xr.DataArray(np.stack(values, axis=2), coords | {"space": list(SPACES)}, _AGREEMENT_DIMS)
    share = np.array([random_share(apart, label) for apart, labels in among for label in labels])
    known = np.isfinite(share)
    null = xr.DataArray(_ratio(member @ np.where(known, share, 0).T, member @ known.T), coords, ("dataset", "label"))
    null.attrs = {"long_name": "neighbours with the same label, drawn at random from those possible", "units": "1"}
    return agreement.assign_coords(layer=layer.number), null.assign_coords(layer=layer.number)


_AGREEMENT_DIMS = ("draw", "dataset", "space", "label")


def _separation(agreement: xr.DataArray) -> xr.DataArray:
    inputs, outputs = (agreement.sel(space=space, label="first expert", drop=True) for space in SPACES)
    return outputs - inputs


def _variances(group: np.ndarray, layer: Layer) -> xr.DataArray:
    """Variance on the first two components, (draw, space): of all tokens, and without each group of documents."""
    left_out = range(-1, GROUPS)
    values = [[plane_variance(points[group != one]) for points in (layer.states, layer.outputs)] for one in left_out]
    return xr.DataArray(values, {"space": list(SPACES)}, ("draw", "space")).assign_coords(layer=layer.number)


def _pictures(layer: Layer, shown: np.ndarray, seed: int) -> xr.Dataset:
    """The maps of one layer, how trustworthy they are, and the variance on each principal component."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import trustworthiness

    none = layer.mean_outputs[:0]
    positions, trust, spectrum = [], [], []
    for points, means in ((layer.states, none), (layer.outputs, layer.mean_outputs)):
        components = min(COMPONENTS, min(points.shape) - 1)
        pca = PCA(components, svd_solver="arpack", random_state=seed).fit(points)
        spectrum.append(pca.explained_variance_ratio_)
        together = np.concatenate([points[shown], means])
        made = {"PCA": pca.transform(together)[:, :2]} | embed(together, seed)
        positions.append(np.array([made[projection] for projection in PROJECTIONS], dtype=np.float32))
        trust.append(
            [trustworthiness(points[shown], each[: len(shown)], n_neighbors=NEIGHBOURS) for each in positions[-1]]
        )
    count = len(shown)
    return xr.Dataset(
        {
            "map": (
                ("space", "projection", "point", "axis"),
                np.stack([each[:, :count] for each in positions]),
                {"long_name": "position of a sampled token in the map", "units": "1"},
            ),
            "mean_map": (
                ("projection", "expert", "axis"),
                positions[1][:, count:],
                {"long_name": "position of an expert's mean output in the map of expert outputs", "units": "1"},
            ),
            "point_expert": ("point", layer.first[shown], {"long_name": "first selected expert", "units": "1"}),
            "trustworthiness": (("space", "projection"), trust),
            "component_variance": (
                ("space", "component"),
                np.stack(spectrum),
                {"long_name": "share of the variance on a principal component", "units": "1"},
            ),
        },
        coords={"space": list(SPACES), "projection": list(PROJECTIONS), "axis": [0, 1], "layer": layer.number},
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return part / whole
