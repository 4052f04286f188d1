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

LEAST_TRUE = 0.5
"""Of a variance between datasets, what the noise of documents must leave for a correlation to be known."""
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
    held, sums = (_sums(each, dataset, group, datasets) for each in (tokens[:, None], _flat(values)))
    each = sums / np.where(held > 0, held, np.nan)
    return np.concatenate([_mean(each, 1)[:, None], each], axis=1).reshape(1 + GROUPS, 1 + datasets, *values.shape[1:])


def _sums(columns: np.ndarray, dataset: np.ndarray, group: np.ndarray, datasets: int) -> np.ndarray:
    """Sums of columns (document, column) over the documents of each dataset, in every draw: (draw, dataset, column)."""
    cells = np.zeros((GROUPS, datasets, columns.shape[1]))
    np.add.at(cells, (group, dataset), columns)
    total = cells.sum(axis=0)
    return np.concatenate([total[None], total - cells])


def _flat(values: np.ndarray) -> np.ndarray:
    """Values (document, ...) as (document, column); there may be no document."""
    return values.reshape(len(values), np.prod(values.shape[1:], dtype=int))


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is known along an axis, NaN where nothing is."""
    known = np.isfinite(values)
    number = known.sum(axis=axis)
    return np.where(known, values, 0).sum(axis=axis) / np.where(number > 0, number, np.nan)


def correlation(
    use: np.ndarray,
    change: np.ndarray,
    tokens: np.ndarray,
    dataset: np.ndarray,
    group: np.ndarray,
    orders: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """r of an expert's use and change over datasets, both less their means over datasets, of all experts together.

    Documents are a sample: what chance adds to a dataset's use and change of loss makes their variances too large, and
    as it is the same in both, their covariance too. These parts are estimated from how documents of one dataset differ,
    and subtracted, so that r is that of datasets with any number of documents. A plain r would be too small by an
    amount that depends on their number, and no interval around it would hold the true one.

    Parameters
    ----------
    use, change
        Of documents, one of each cluster: (document, layer, expert).
    tokens, dataset, group
        As those of `rates`.
    orders
        Permutations of the documents, whose changes are then those of others: (permutation, document) int.

    Returns
    -------
    numpy.ndarray
        r, (1 + GROUPS, layer) float64, cut to what it can be. NaN where less than `LEAST_TRUE` of the variance of one
        of the two is left.
    numpy.ndarray
        The covariance with permuted changes, (permutation, layer), over the same root of variances as r has of all
        documents.
    """
    datasets, t = int(dataset.max(initial=-1)) + 1, tokens[:, None].astype(np.float64)
    u, x = _flat(use), _flat(change)

    def sums(columns: np.ndarray) -> np.ndarray:
        return _sums(columns, dataset, group, datasets)

    size, weight, squares = map(sums, (np.ones_like(t), t, t**2))
    known = size > 1
    number = np.maximum(known.sum(axis=1), 1)  # of datasets: (draw, 1)

    def over(values: np.ndarray) -> np.ndarray:
        """Sums over datasets and experts: (draw, layer)."""
        return np.where(known, values, 0).sum(axis=1).reshape(len(values), *use.shape[1:]).sum(axis=-1)

    def noise(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The covariance of two ratios of sums, from documents' distances from them (Cochran 1977, 6.3)."""
        first, second = sums(one) / weight, sums(other) / weight
        apart = sums(one * other) - first * sums(other * t) - second * sums(one * t) + first * second * squares
        return over(size / (size - 1) * apart / weight**2)

    with np.errstate(divide="ignore", invalid="ignore"):
        rates_of = [np.where(known, sums(each) / weight, 0) for each in (u, x)]
        centred = [each - each.sum(axis=1, keepdims=True) / number[:, None] for each in rates_of]
        plain = [over(centred[one] * centred[other]) for one, other in ((0, 1), (0, 0), (1, 1))]
        added = [noise(*pair) for pair in ((u, x), (u, u), (x, x))]
    true = [one - (1 - 1 / number) * other for one, other in zip(plain, added, strict=True)]
    enough = (true[1] > LEAST_TRUE * plain[1]) & (true[2] > LEAST_TRUE * plain[2])
    root = np.sqrt(np.where(enough, true[1] * true[2], np.nan))
    used, permuted = np.where(known[0], centred[0][0], 0), []
    for order in orders:
        held, changed = (_sums(each[order], dataset, group * 0, datasets)[0] for each in (t, x))
        product = used * changed / np.where(known[0], held, np.inf)
        permuted.append(product.reshape(datasets, *use.shape[1:]).sum(axis=(0, 2)))
    return np.clip(true[0] / root, -1, 1), np.array(permuted).reshape(len(orders), use.shape[1]) / root[0]


def permuted(documents: int, permutations: int, seed: int) -> np.ndarray:
    """Random orders of documents: (permutation, document) int64."""
    rng = np.random.default_rng([seed, zlib.crc32(b"correlation")])
    return rng.permuted(np.tile(np.arange(documents), (permutations, 1)), axis=1)


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
    columns = _flat(values)
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
    changed = _flat(others != estimate.values).any(axis=1)
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

    change, direct = map(of_experts, ("loss_change", "loss_change_at"))
    draws = xr.Dataset({"mean_loss_change": change.mean("expert")})
    draws["direct_share"] = (direct.sum("expert") / change.sum("expert")).where(change.notnull().all("expert"))
    orders = permuted(len(place), permutations, seed)
    of_documents = (scan[name].values for name in ("selected_tokens", "loss_change", "predicted_tokens"))
    correlated, null = correlation(*of_documents, place, scan["group"].values.astype(int), orders)
    draws["use_correlation"] = ("draw", "layer"), correlated
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
    scanned = scanned.merge(_null(xr.DataArray(null, {"layer": layers}, ("permutation", "layer")), confidence))
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


def _null(values: xr.DataArray, confidence: float) -> xr.Dataset:
    """`null_use_correlation` (layer, interval) and its mean over layers, from values (permutation, layer)."""
    title = f"{MEASURES['use_correlation'].title} with permuted clusters"
    parts = {"": (values, title), MEAN: (values.mean("layer"), f"{title}, mean over layers")}
    return xr.Dataset(
        {
            f"{prefix}null_use_correlation": uncertainty.chance(part, confidence, "permutation").assign_attrs(
                long_name=words, units="1"
            )
            for prefix, (part, words) in parts.items()
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
