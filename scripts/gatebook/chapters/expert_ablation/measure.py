"""Expert ablation: from the sums of documents that `scan` makes to what removing experts does.

The change of loss of a dataset is a ratio of sums over its documents, which are one of each cluster; pooled is the mean
over datasets. What leaves out a group of clusters leaves out its documents in all datasets.

Predictors are held against the change of loss in other documents: of the clusters of every dataset a random half gives
the predictor, the other half the change. On the same documents any predictor that varies with the texts would look
better than it is. The correlation is the mean over many such splits, which stay the same in all draws.
"""

import zlib

import numpy as np
import scipy.stats
import xarray as xr

from gatebook.chapters.expert_ablation import ITSELF, MEASURES, PREDICTORS
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty
from gatebook.measures.summary import MEAN, Jackknife, Measured, summarise
from gatebook.measures.uncertainty import POOLED

OF_EXPERTS = ("draw", "dataset", "layer", "expert")
OF_PICKED = {"picked_change": "picked_change", "matched_change": "matched_change", "control_change": "control_change"}


def rates(values: np.ndarray, tokens: np.ndarray, dataset: np.ndarray, group: np.ndarray, datasets: int) -> np.ndarray:
    """Sums per token of each dataset, and their mean over datasets, in every draw.

    Parameters
    ----------
    values
        Of documents: (document, ...).
    tokens, dataset, group
        Of documents: (document,); how many tokens, which dataset, which group of clusters.
    datasets
        How many there are.

    Returns
    -------
    numpy.ndarray
        (1 + GROUPS, 1 + datasets, ...) float64: of all documents, then without each group; the mean first. NaN for a
        dataset without documents, which the mean leaves out.
    """
    columns = np.concatenate([tokens[:, None], values.reshape(len(values), -1)], axis=1)
    cells = np.zeros((GROUPS, datasets, columns.shape[1]))
    np.add.at(cells, (group, dataset), columns)
    sums = np.concatenate([cells.sum(axis=0)[None], cells.sum(axis=0) - cells])
    each = sums[..., 1:] / np.where(sums[..., :1] > 0, sums[..., :1], np.nan)
    return np.concatenate([_mean(each, 1)[:, None], each], axis=1).reshape(1 + GROUPS, 1 + datasets, *values.shape[1:])


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is known along an axis, NaN where nothing is."""
    known = np.isfinite(values)
    number = known.sum(axis=axis)
    return np.where(known, values, 0).sum(axis=axis) / np.where(number > 0, number, np.nan)


def correlation(use: np.ndarray, change: np.ndarray) -> np.ndarray:
    """r of an expert's use and change over datasets, both less their means over datasets, of all experts together.

    use, change: (..., dataset, expert); (...) float64, NaN where one of them does not vary or there is one dataset.
    """
    known = np.isfinite(use) & np.isfinite(change)
    parts = [np.where(known, part - _mean(np.where(known, part, np.nan), -2)[..., None, :], 0) for part in (use, change)]
    product, first, second = (
        (one * other).sum(axis=(-2, -1)) for one, other in (parts, (parts[0],) * 2, (parts[1],) * 2)
    )
    size = np.sqrt(first * second)
    return product / np.where(size > 1e-300, size, np.nan)


def null_correlations(scan: xr.Dataset, place: np.ndarray, datasets: int, permutations: int, seed: int) -> np.ndarray:
    """The same with the changes of documents permuted over all documents, and their use left: (draw, layer) float64."""
    rng = np.random.default_rng([seed, zlib.crc32(b"correlation")])
    member = (place == np.arange(datasets)[:, None]).astype(np.float64)
    tokens, change, use = (scan[name].values for name in ("predicted_tokens", "loss_change", "selected_tokens"))
    shape = (datasets, *change.shape[1:])

    def per_token(values: np.ndarray, of: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = (member @ values.reshape(len(values), -1)) / (member @ of)[:, None]
        return rate.reshape(shape).swapaxes(0, 1)

    used = per_token(use, tokens)
    orders = (rng.permutation(len(place)) for _ in range(permutations))
    return np.array([correlation(used, per_token(change[order], tokens[order])) for order in orders])


def predictions(scan: xr.Dataset, place: np.ndarray, datasets: int, splits: int, seed: int) -> np.ndarray:
    """Spearman's rank correlation over experts of each predictor and the change of loss, of different halves.

    Parameters
    ----------
    scan
        See `scan.scan`.
    place
        The dataset of each document: (document,).
    datasets, splits, seed
        How many datasets and splits, and the seed of these.

    Returns
    -------
    numpy.ndarray
        (predictor, draw, layer) float64, the mean over splits; NaN where all experts are alike.
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"prediction")])
    values = np.stack([scan[name].values for name in PREDICTORS], axis=1).astype(np.float64)
    columns = values.reshape(len(values), np.prod(values.shape[1:], dtype=int))
    group, tokens = scan["group"].values.astype(int), scan["predicted_tokens"].values
    kept = np.concatenate([np.ones((1, len(place)), bool), group != np.arange(GROUPS)[:, None]])
    total = np.zeros((len(PREDICTORS), len(kept), scan.sizes["layer"]))
    for _ in range(splits):
        first = np.zeros(len(place), bool)
        for index in range(datasets):
            mine = rng.permutation(np.flatnonzero(place == index))
            first[mine[: (len(mine) + rng.integers(2)) // 2]] = True
        one, other = (
            _pooled(columns, tokens, kept & half, place, datasets).reshape(len(kept), *values.shape[1:])
            for half in (first, ~first)
        )
        total += _spearman(one, other[:, [-1]]).swapaxes(0, 1)
    return total / splits


def _pooled(columns: np.ndarray, tokens: np.ndarray, kept: np.ndarray, place: np.ndarray, datasets: int) -> np.ndarray:
    """The mean over datasets of sums per token of the documents that are `kept` (draw, document): (draw, column)."""
    rate = np.full((datasets, len(kept), columns.shape[1]), np.nan)
    for index in range(datasets):
        mine = place == index
        member = kept[:, mine].astype(np.float64)
        held = member @ tokens[mine]
        rate[index] = (member @ columns[mine]) / np.where(held > 0, held, np.nan)[:, None]
    return _mean(rate, 0)


def _spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis; NaN where all ranks are equal or something is not known."""
    known = np.isfinite(one).all(axis=-1) & np.isfinite(other).all(axis=-1)
    ranks = [scipy.stats.rankdata(np.nan_to_num(part), axis=-1) for part in (one, other)]
    first, second = (part - part.mean(axis=-1, keepdims=True) for part in ranks)
    size = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    return np.where(known, (first * second).sum(axis=-1), np.nan) / np.where(size > 0, size, np.nan)


def p_values(draws: xr.DataArray) -> xr.DataArray:
    """Two-sided p of the difference from 0, from the draws of the jackknife: `draw` goes.

    Of Student's t with one degree of freedom less than there are groups that hold documents; NaN without two of them.
    """
    ordered = draws.transpose("draw", ...)
    estimate, others = ordered.isel(draw=0, drop=True), ordered.values[1:]
    changed = (others != estimate.values).reshape(len(others), -1).any(axis=1)
    groups = changed.sum()
    if groups < 2:
        return estimate * np.nan
    filled = others[changed]
    error = np.sqrt((groups - 1) / groups * ((filled - filled.mean(axis=0)) ** 2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(error > 0, np.abs(estimate.values) / error, np.where(estimate.values == 0, 0, np.inf))
    found = 2 * scipy.stats.t.sf(distance, groups - 1)
    return estimate.copy(data=np.where(np.isfinite(estimate.values), found, np.nan))


def adjusted(p: xr.DataArray) -> xr.DataArray:
    """p-values adjusted for the false discovery rate, by Benjamini and Hochberg, over all that are known."""
    found, known = np.full(p.shape, np.nan), np.isfinite(p.values)
    if known.any():
        found[known] = scipy.stats.false_discovery_control(p.values[known])
    return p.copy(data=found)


def measure(
    scan: xr.Dataset,
    tested: xr.Dataset,
    *,
    splits: int,
    permutations: int,
    false_discovery_rate: float,
    seed: int,
    confidence: float,
    fewest_clusters: int,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    scan, tested
        See `scan.scan` and `scan.tested`, with `scan.about` of their documents and what was `scan.picked`.
    splits, permutations, false_discovery_rate, seed
        The settings of the chapter.
    confidence
        Of the intervals, between 0 and 1.
    fewest_clusters
        With fewer a dataset has no intervals.

    Returns
    -------
    Measured
        `loss_change` (dataset, layer, expert, interval), of the pooled one `adjusted_p_value` (layer, expert);
        `mean_loss_change`, `direct_share` (dataset, layer, interval); `use_correlation` and its null (layer, interval);
        `prediction`, `prediction_beyond` (predictor, layer, interval); `picked_change`, `matched_change`,
        `control_change`, `excess` (dataset, interval), where pooled is the expert picked in all datasets, with
        `excess_adjusted_p_value`, `picked_layer`, `picked_expert`, `matched_share`, `matched_weight` and
        `control_weight`, the mean weights of both sides (dataset). `tokens`, `documents`, `clusters` (dataset) of the
        scan, `tested_clusters` (dataset).
    """
    names, layers = [str(cell) for cell in scan["cell"].values if cell != POOLED], scan["layer"].values
    place = np.array([names.index(each) for each in scan["dataset"].values], np.int64)
    coords = {"dataset": [POOLED, *names], "layer": layers, "expert": np.arange(scan.sizes["expert"])}

    def of_experts(name: str) -> xr.DataArray:
        tokens, group = scan["predicted_tokens"].values, scan["group"].values
        return xr.DataArray(rates(scan[name].values, tokens, place, group, len(names)), coords, OF_EXPERTS)

    change, use, direct = map(of_experts, ("loss_change", "selected_tokens", "loss_change_at"))
    draws = xr.Dataset({"mean_loss_change": change.mean("expert")})
    draws["direct_share"] = (direct.sum("expert") / change.sum("expert")).where(change.notnull().all("expert"))
    parts = (part.isel(dataset=slice(1, None)).transpose("draw", "layer", "dataset", "expert") for part in (use, change))
    draws["use_correlation"] = ("draw", "layer"), correlation(*(part.values for part in parts))
    found = predictions(scan, place, len(names), splits, seed)
    draws["prediction"] = ("predictor", "draw", "layer"), found
    draws = draws.assign_coords(predictor=list(PREDICTORS.values()))
    draws["prediction_beyond"] = draws["prediction"] - draws["prediction"].sel(predictor=ITSELF, drop=True)
    method = Jackknife(confidence)
    scanned = summarise(draws, MEASURES, method)
    scanned["loss_change"] = _described(method.interval(change, MEASURES["loss_change"].bounds), "loss_change")
    scanned["adjusted_p_value"] = adjusted(p_values(change.sel(dataset=POOLED, drop=True))).assign_attrs(
        long_name="p of the pooled change of loss, adjusted for all experts", units="1"
    )
    scanned = scanned.merge(_null(scan, place, len(names), permutations, seed, confidence, layers))
    of_tests = _tests(tested, names)
    metrics = scanned.merge(_sizes(scan, names))
    metrics = uncertainty.without_few(metrics, fewest_clusters, metrics["clusters"])
    picked = summarise(of_tests, MEASURES, method).merge(_picked(scan, tested, names, of_tests))
    picked["tested_clusters"] = _sizes(tested, names)["clusters"].assign_attrs(
        long_name="clusters of the tested documents", units="clusters"
    )
    metrics = metrics.merge(uncertainty.without_few(picked, fewest_clusters, picked["tested_clusters"]))
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "confidence": confidence, "seed": seed}
    attrs |= {"false_discovery_rate": false_discovery_rate, "fewest_clusters": fewest_clusters, "splits": splits}
    return Measured(metrics.assign_attrs(attrs | {"permutations": permutations}), draws.merge(of_tests))


def _described(values: xr.DataArray, name: str) -> xr.DataArray:
    measure = MEASURES[name]
    return values.assign_attrs(long_name=measure.title, units=measure.units, formula=measure.formula)


def _null(
    scan: xr.Dataset, place: np.ndarray, datasets: int, permutations: int, seed: int, confidence: float, layers
) -> xr.Dataset:
    """`null_use_correlation` (layer, interval) and its mean over layers."""
    found = null_correlations(scan, place, datasets, permutations, seed)
    values = xr.DataArray(found, {"layer": layers}, ("permutation", "layer"))
    each = {"": values, MEAN: values.mean("layer")}
    words = {"": "", MEAN: ", mean over layers"}
    return xr.Dataset(
        {
            f"{prefix}null_use_correlation": uncertainty.chance(part, confidence, "permutation").assign_attrs(
                long_name=f"{MEASURES['use_correlation'].title} with permuted clusters{words[prefix]}", units="1"
            )
            for prefix, part in each.items()
        }
    )


def _tests(tested: xr.Dataset, names: list[str]) -> xr.Dataset:
    """The draws of what is measured of the picked experts: (draw, dataset)."""
    place = np.array([names.index(each) for each in tested["dataset"].values], np.int64)
    tokens, group, found = tested["predicted_tokens"].values, tested["group"].values, xr.Dataset()
    for name in OF_PICKED:
        both = rates(tested[name].values, tokens, place, group, len(names))  # (draw, dataset, of)
        values = np.concatenate([both[:, :1, 1], both[:, 1:, 0]], axis=1)
        found[name] = ("draw", "dataset"), values
    found["excess"] = found["matched_change"] - found["control_change"]
    return found.assign_coords(dataset=[POOLED, *names])


def _picked(scan: xr.Dataset, tested: xr.Dataset, names: list[str], draws: xr.Dataset) -> xr.Dataset:
    """Which experts were picked, how many of their slots were matched, and whether an excess is significant."""
    dataset = tested["dataset"].values
    sums = {
        name: np.array(
            [tested[name].values[:, 1].sum()] + [tested[name].values[dataset == each, 0].sum() for each in names]
        )
        for name in ("picked_slots", "matched_slots", "matched_weight", "control_weight")
    }
    slots, matched = (np.where(sums[name] > 0, sums[name], np.nan) for name in ("picked_slots", "matched_slots"))
    of = scan.sel(cell=[POOLED, *names])
    p = xr.concat([p_values(draws["excess"].sel(dataset=each)) for each in (POOLED, *names)], "dataset")
    found = {
        "picked_layer": (of["cell_layer"].values, "layer of the picked expert"),
        "picked_expert": (of["cell_expert"].values, "number of the picked expert"),
        "matched_share": (sums["matched_slots"] / slots, "share of its slots with a partner"),
        "matched_weight": (sums["matched_weight"] / matched, "mean weight of its matched slots"),
        "control_weight": (sums["control_weight"] / matched, "mean weight of their partners"),
        "excess_adjusted_p_value": (adjusted(p).values, "p of the excess, adjusted for all picked experts"),
    }
    return xr.Dataset(
        {name: ("dataset", values, {"long_name": title, "units": "1"}) for name, (values, title) in found.items()},
        coords={"dataset": [POOLED, *names]},
    )


def _sizes(found: xr.Dataset, names: list[str]) -> xr.Dataset:
    """`documents`, `clusters` and `tokens` (dataset,), pooled first."""
    of = [found["dataset"].values == name for name in names]
    clusters = [found["cluster"].values[mine].astype(object) for mine in of]
    tokens = np.array([found["predicted_tokens"].values[mine].sum() for mine in of], np.int64)
    sizes = uncertainty.sample_sizes_of([int(mine.sum()) for mine in of], clusters)
    return sizes.assign(
        tokens=("dataset", np.append(tokens.sum(), tokens), {"long_name": "tokens", "units": "tokens"})
    ).assign_coords(dataset=[POOLED, *names])
