"""Uncertainty: 95 % intervals by a bootstrap over documents, and what chance alone would give.

Tokens of one document depend on each other, so documents, not tokens, are resampled, within each dataset. Everything
works on arrays whose first axis is `draw`: draw 0 is the observed sample, the others are resamples. A statistic that is
vectorised over leading axes is therefore computed once, for the estimate and its interval together.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats
import xarray as xr

POOLED = "pooled"
INTERVAL = ("estimate", "low", "high")
DOCUMENTS_PER_PRODUCT = 1024


def resampling_weights(documents: int, resamples: int, seed: int, name: str) -> np.ndarray:
    """How often each document occurs in each draw: uint16 (1 + resamples, documents); draw 0 is all ones.

    The generator depends on `seed` and on the dataset's `name` only, so other datasets in a study change nothing.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    share, weights = np.full(documents, 1 / documents), np.ones((1 + resamples, documents), dtype=np.uint16)
    for draw in range(1, 1 + resamples):
        weights[draw] = rng.multinomial(documents, share)
    return weights


@dataclass(frozen=True)
class Resampling:
    """The draws of one dataset's documents: `weights` (1 + resamples, documents), see `resampling_weights`.

    Documents are taken in the `order` of their identifiers, so their order in the data does not matter.
    """

    weights: np.ndarray
    order: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over documents, the first axis of `values`, in every draw: float64 (draw, ...)."""
        columns = values.reshape(len(values), -1)
        total = np.zeros((len(self.weights), columns.shape[1]))
        for start in range(0, len(values), DOCUMENTS_PER_PRODUCT):
            part = slice(start, start + DOCUMENTS_PER_PRODUCT)
            total += self._times(part).astype(np.float64) @ columns[self.order[part]].astype(np.float64)
        return total.reshape(-1, *values.shape[1:])

    def _times(self, part: slice) -> np.ndarray:
        """How often each document of a part occurs in each draw."""
        return self.weights[:, part]


def resample(tallies: dict[str, xr.Dataset], resamples: int, seed: int) -> dict[str, Resampling]:
    """The draws of every dataset's documents, for `dataset_draws`; the observed one alone if there are no documents."""
    return {
        name: Resampling(
            resampling_weights(tally.sizes["document"], resamples if has_documents(tally) else 0, seed, name),
            _by_identifier(tally),
        )
        for name, tally in tallies.items()
    }


def has_documents(tally: xr.Dataset) -> bool:
    """Whether a tally is of documents; published counts are of a whole dataset, without identifiers."""
    return "document_id" in tally.coords


def _by_identifier(tally: xr.Dataset) -> np.ndarray:
    """The order of a dataset's documents by their identifiers."""
    if not has_documents(tally):
        return np.arange(tally.sizes["document"])
    return np.argsort(tally["document_id"].values.astype(str), kind="stable")


def dataset_draws(tallies: dict[str, xr.Dataset], names: list[str], resampling: dict[str, Resampling]) -> xr.Dataset:
    """Sums over documents of per-document tallies, for every dataset and pooled, in every draw.

    Each variable of `names` loses its dimension `document` and gains `dataset` ("pooled" first, which is the sum over
    datasets: a bootstrap stratified by dataset) and `draw` (1 + resamples).
    """
    parts = {dataset: tally[names].drop_vars("document_id", errors="ignore") for dataset, tally in tallies.items()}
    first, *_ = xr.align(*parts.values(), join="exact", exclude=["document"], copy=False)
    draws = {}
    for name in names:
        array = first[name].transpose("document", ...)
        sums = np.empty((1 + len(parts), len(next(iter(resampling.values())).weights), *array.shape[1:]))
        for index, (dataset, part) in enumerate(parts.items(), start=1):
            sums[index] = resampling[dataset].sums(part[name].transpose("document", ...).values)
        sums[0] = sums[1:].sum(axis=0)
        draws[name] = (("dataset", "draw", *array.dims[1:]), sums)
    return xr.Dataset(draws, coords=first.coords).assign_coords(dataset=[POOLED, *parts])


def document_counts(tallies: dict[str, xr.Dataset]) -> xr.Variable:
    """Numbers of documents, pooled and by dataset, in the order of `dataset_draws`: (dataset,) int64; 0: not known."""
    counts = [tally.sizes["document"] if has_documents(tally) else 0 for tally in tallies.values()]
    return xr.Variable("dataset", np.array([sum(counts), *counts], dtype=np.int64))


def interval(
    draws: xr.DataArray,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    squared: bool = False,
) -> xr.DataArray:
    """Estimate and confidence interval of a statistic from its draws: `draw` becomes `interval` (estimate, low, high).

    The interval is the percentile interval moved by twice the bootstrap's bias (mean of the resamples minus the
    estimate): once because resampling adds the noise of the sample a second time, once because the estimate itself
    holds it. For a mean the bias is 0 and this is the percentile interval; for measures of inequality, which noise can
    only raise, the plain percentile interval may hardly ever cover the true value. `bounds` are the values that the
    statistic can take. `squared` moves the interval of the statistic's square and takes the root: for measures of
    spread, 0 for even loads, because noise adds to their square about the same amount whatever their true value is.
    Without resamples the limits are NaN.
    """
    ordered = draws.transpose("draw", ...)
    estimate = ordered.isel(draw=0, drop=True)
    observed, resampled = np.split(ordered.values**2 if squared else ordered.values, [1])
    limits = np.full((2, *estimate.shape), np.nan)
    if len(resampled):
        tail = (1 - confidence) / 2
        bias = resampled.mean(axis=0) - observed[0]
        # Resamples lie one bias above the estimate, which itself lies one above the true value: the quantiles come back
        # by both.
        limits = np.quantile(resampled, [tail, 1 - tail], axis=0) - 2 * bias
    if squared:
        limits = np.sqrt(np.maximum(limits, 0))
    stacked = np.stack([estimate.values, *np.clip(limits, *bounds)], axis=-1)
    return xr.DataArray(stacked, dims=(*estimate.dims, "interval"), coords=estimate.coords).assign_coords(
        interval=list(INTERVAL)
    )


def difference_interval(
    first: xr.DataArray, second: xr.DataArray, confidence: float, squared: bool = False
) -> xr.DataArray:
    """Second minus first with its interval, from the draws of a statistic in two runs: `draw` becomes `interval`.

    The resamples of each run are moved by twice their bias, on squares if `squared`, as `interval` moves its
    limits; the limits are the quantiles of the differences between them.
    """
    first, second = (values.transpose("draw", ...) for values in (first, second))
    tail = (1 - confidence) / 2
    limits = np.quantile(_moved(second, squared) - _moved(first, squared), [tail, 1 - tail], axis=0)
    difference = (second - first).isel(draw=0, drop=True)
    stacked = np.stack([difference.values, *limits], axis=-1)
    return xr.DataArray(stacked, dims=(*difference.dims, "interval"), coords=difference.coords).assign_coords(
        interval=list(INTERVAL)
    )


def _moved(draws: xr.DataArray, squared: bool) -> np.ndarray:
    """The resamples of a statistic, moved by twice the bias of the bootstrap: (draw, ...)."""
    observed, resampled = np.split(draws.values**2 if squared else draws.values, [1])
    moved = resampled - 2 * (resampled.mean(axis=0) - observed[0])
    return np.sqrt(np.maximum(moved, 0)) if squared else moved


def without_each(parts: xr.DataArray | xr.Dataset, dim: str = "group") -> xr.DataArray | xr.Dataset:
    """The sum over `dim`, and the sums without each part in turn: `dim` becomes `draw`, draw 0 is the whole.

    What is computed from them goes to `jackknife`.
    """
    total = parts.sum(dim)
    return xr.concat([total, total - parts.rename({dim: "draw"})], dim="draw").transpose("draw", ...)


def jackknife(
    draws: xr.DataArray,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    *,
    complete: bool = False,
) -> xr.DataArray:
    """Estimate and interval of a statistic by the delete-a-group jackknife: `draw` becomes `interval`.

    Draw 0 is the statistic of all documents, draw g that without group g of G; a group without documents changes
    nothing and is left out of G by being equal to draw 0 everywhere, unless the draws are `complete`: all groups hold
    documents, although leaving one out may not change a share. With the variance (G - 1) / G sum (t_g - mean)^2 the
    interval is estimate +- t quantile (G - 1 degrees of freedom) times standard error, cut to `bounds`; with one group
    it is NaN. It fits statistics that resampling would bias, such as means over token types of which many occur once,
    because it leaves out one G-th of the documents only; source: Kott (2001), The delete-a-group jackknife.
    """
    ordered = draws.transpose("draw", ...)
    estimate, others = ordered.isel(draw=0, drop=True), ordered.values[1:]
    changed = [complete or not np.array_equal(other, estimate.values, equal_nan=True) for other in others]
    filled = others[changed]
    groups = max(len(filled), 2)
    spread = np.full(estimate.shape, np.nan if len(filled) == 1 else 0.0)
    if len(filled) > 1:
        spread = ((filled - filled.mean(axis=0)) ** 2).sum(axis=0)
    error = np.sqrt((groups - 1) / groups * spread) * scipy.stats.t.ppf((1 + confidence) / 2, groups - 1)
    limits = np.clip([estimate.values - error, estimate.values + error], *bounds)
    stacked = np.stack([estimate.values, *limits], axis=-1)
    return xr.DataArray(stacked, dims=(*estimate.dims, "interval"), coords=estimate.coords).assign_coords(
        interval=list(INTERVAL)
    )


def miller_madow(count: np.ndarray) -> np.ndarray:
    """Entropy in nats of distributions given as counts over the last axis, by Miller and Madow.

    The plug-in entropy, which is too small by about (m - 1) / (2 N), plus that: m is the number of cells that are not
    empty, N the sum of counts; source: Miller (1955), Note on the bias of information estimates. NaN without counts.
    """
    total = count.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = count / total[..., None]
        return scipy.special.entr(share).sum(axis=-1) + ((count > 0).sum(axis=-1) - 1) / (2 * total)


def histogram_quantiles(counts: np.ndarray, edges: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
    """Quantiles (..., quantile) of distributions given as counts (..., bin), linear inside a bin; NaN without counts.

    `edges` has one more entry than there are bins, or has shape (..., bins + 1) that broadcasts against `counts`. A
    quantile lies in the bin of the first value at or below which at least that share of all values lies.
    """
    edges = np.broadcast_to(edges, (*counts.shape[:-1], counts.shape[-1] + 1))
    cumulative = np.cumsum(counts, axis=-1)
    total = cumulative[..., -1]
    found = []
    for quantile in quantiles:
        target = quantile * total
        index = np.minimum((cumulative < target[..., None]).sum(axis=-1), counts.shape[-1] - 1)[..., None]
        inside, below_and_inside, low, high = (
            np.take_along_axis(array, place, axis=-1)[..., 0]
            for array, place in ((counts, index), (cumulative, index), (edges, index), (edges, index + 1))
        )
        position = target - (below_and_inside - inside)
        fraction = np.divide(position, inside, out=np.zeros_like(target), where=inside > 0)
        found.append(np.where(total > 0, low + fraction * (high - low), np.nan))
    return np.stack(found, axis=-1)


def uniform_loads(tokens: int, experts: int, top_k: int, draws: int, seed: int) -> np.ndarray:
    """Loads when every token picks `top_k` of `experts` at random, independently of all others.

    Counts of sampling without replacement have variance T f (1 - f), f = k / E, and covariance -T f (1 - f) / (E - 1);
    they are drawn from the normal distribution with these moments, which is accurate when T f is above about 30.

    Parameters
    ----------
    tokens, experts, top_k
        T, E and k.
    draws, seed
        How many, and the seed of them.

    Returns
    -------
    numpy.ndarray
        In tokens: (draw, expert) float64.
    """
    share = top_k / experts
    noise = np.random.default_rng(seed).standard_normal((draws, experts))
    noise -= noise.mean(axis=1, keepdims=True)
    scale = np.sqrt(tokens * share * (1 - share) * experts / max(experts - 1, 1))
    return np.maximum(tokens * share + scale * noise, 0)
