"""Summaries: from draws to measures with intervals, the difference from the untrained model, and tables."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.measures import uncertainty
from gatebook.measures.uncertainty import INTERVAL

MEAN = "mean_over_layers_"


class Measured(NamedTuple):
    """What a chapter measured: `metrics`, which its file holds, and the `draws` from which their intervals come.

    draws: every measure with a first draw of the data as they are and others of resamples, or of the data without one
    group each; where the draws of a mean over layers are not the mean of the layers' draws, these too.
    """

    metrics: xr.Dataset
    draws: xr.Dataset


def of_enough(measured: Measured, fewest_clusters: int) -> Measured:
    """What was measured, without the limits of datasets with fewer than `fewest_clusters` clusters."""
    metrics = uncertainty.without_few(measured.metrics, fewest_clusters, measured.metrics["clusters"])
    return Measured(metrics.assign_attrs(fewest_clusters=fewest_clusters), measured.draws)


class Bootstrap(NamedTuple):
    """Intervals from resamples, the first draw being the sample itself (see `uncertainty.interval`)."""

    confidence: float

    def interval(self, draws: xr.DataArray, bounds: tuple[float, float], bias: uncertainty.Bias = "") -> xr.DataArray:
        """Estimate and interval: `draw` becomes `interval`."""
        return uncertainty.interval(draws, self.confidence, bounds, bias)

    def difference(
        self, draws: xr.DataArray, others: xr.DataArray, bounds: tuple[float, float], bias: uncertainty.Bias = ""
    ) -> xr.DataArray:
        """`draws` minus `others`, whose draws are of the same clusters, with its interval."""
        return uncertainty.difference_interval(others, draws, self.confidence, bounds, bias)


class Jackknife(NamedTuple):
    """Intervals from the data without one group each (see `uncertainty.jackknife`).

    Datasets are taken one by one, because each may have groups of which it holds no document; or `together`, where
    leaving out a group changes the values of all datasets.
    """

    confidence: float
    together: bool = False

    def interval(self, draws: xr.DataArray, bounds: tuple[float, float], bias: uncertainty.Bias = "") -> xr.DataArray:
        """Estimate and interval: `draw` becomes `interval`."""
        if self.together or "dataset" not in draws.dims:
            return uncertainty.jackknife(draws, self.confidence, bounds)
        return uncertainty.jackknife_by_dataset(draws, self.confidence, bounds)

    def difference(
        self, draws: xr.DataArray, others: xr.DataArray, bounds: tuple[float, float], bias: uncertainty.Bias = ""
    ) -> xr.DataArray:
        """`draws` minus `others`, whose draws leave out the same clusters, with its interval."""
        return self.interval(draws - others, (-np.inf, np.inf))


METHODS = {"bootstrap": Bootstrap, "jackknife": Jackknife}


def summarise(draws: xr.Dataset, measures: Mapping, method: Bootstrap | Jackknife) -> xr.Dataset:
    """Every one of the `measures` that `draws` has, and its mean over layers, with their intervals and attributes.

    Parameters
    ----------
    draws
        Measures over `draw`, and `layer` where they have layers; `mean_over_layers_*` if that is not the mean of the
        draws of the layers.
    measures
        What is known of each: title, units, formula, bounds and bias (`contract.Measure`).
    method
        How draws become intervals.

    Returns
    -------
    xr.Dataset
        Each measure with `interval` (estimate, low, high) in place of `draw`, and `mean_over_layers_*` without layer.
    """
    out = xr.Dataset()
    for name, (values, mean) in _with_means(draws, measures).items():
        measure = measures[name.removeprefix(MEAN)]
        found = method.interval(values, measure.bounds, measure.bias)
        title = f"{measure.title}, mean over layers" if mean else measure.title
        out[name] = found.assign_attrs(long_name=title, units=measure.units, formula=measure.formula)
    return out


def differences(draws: xr.Dataset, others: xr.Dataset, measures: Mapping, method: Bootstrap | Jackknife) -> xr.Dataset:
    """What `summarise` gives of `draws`, minus the same of `others`, with intervals of the paired difference.

    Both are draws of the same documents in the same order; a measure that only one of them has is left out, and so is
    one whose draws are not as many.
    """
    out, known = xr.Dataset(), _with_means(others, measures)
    for name, (values, mean) in _with_means(draws, measures).items():
        if name not in known or known[name][0].sizes != values.sizes:
            continue
        measure = measures[name.removeprefix(MEAN)]
        found = method.difference(values, known[name][0], measure.bounds, measure.bias)
        title = f"{measure.title}{', mean over layers' if mean else ''}, difference from the untrained model"
        out[name] = found.assign_attrs(long_name=title, units=measure.units, formula=measure.formula)
    return out


def _with_means(draws: xr.Dataset, measures: Mapping) -> dict[str, tuple[xr.DataArray, bool]]:
    """The draws of the measures and, where they have layers, of their means over layers, and which is a mean.

    Measures with draws of their own, such as those without one expert each, have them along `draw_*`.
    """
    found = {}
    for name in (name for name in measures if name in draws):
        values, *mean = (
            draws[each].rename({dim: "draw" for dim in draws[each].dims if str(dim).startswith("draw")})
            for each in (name, MEAN + name)
            if each in draws
        )
        found[name] = values, False
        if mean or "layer" in values.dims:
            found[MEAN + name] = mean[0] if mean else values.mean("layer"), True
    return found


def table(metrics: xr.Dataset, names: Iterable[str], null: str | None = None) -> pd.DataFrame:
    """Those of the measures `names` that there are, as rows, each followed by its means over layers.

    Columns: measure, unit, dimensions of the measures, dataset and layer last, estimate, low, high. Means have the name
    that they have in the metrics, `mean_over_layers_*`, and an empty layer. null: the name of one column more, that of
    the measures' nulls.
    """
    whole = pd.concat([rows for name in names if name in metrics for rows in _rows(metrics, name, null)])
    last = [each for each in ("dataset", "layer", *INTERVAL, null) if each in whole]
    whole = whole[["measure", "unit", *(column for column in whole.columns[2:] if column not in last), *last]]
    words = {column: "" for column in whole if not pd.api.types.is_numeric_dtype(whole[column])}
    return whole.fillna(words).astype({"layer": "Int64"}).reset_index(drop=True)


def _rows(metrics: xr.Dataset, name: str, null: str | None) -> Iterator[pd.DataFrame]:
    """A measure as rows, and its means over layers as rows, if it has any."""
    for prefix in ("", MEAN):
        if (each := prefix + name) not in metrics:
            continue
        values = metrics[each] if "layer" in metrics[each].dims else metrics[each].expand_dims(layer=[np.nan])
        values = values.transpose("dataset", "layer", ..., missing_dims="ignore")
        rows = interval_table(values) if "interval" in values.dims else values.to_dataframe("estimate").reset_index()
        rows.insert(0, "measure", each)
        rows.insert(1, "unit", metrics[each].attrs["units"])
        if null and f"null_{name}" in metrics:
            known = f"{prefix}null_{name}"
            chance = metrics[known] if known in metrics else metrics[f"null_{name}"].mean("layer")
            shape, chance = (each.isel(interval=0, drop=True, missing_dims="ignore") for each in (values, chance))
            rows[null] = chance.broadcast_like(shape).transpose(*shape.dims).values.ravel()
        yield rows


def spread(values: np.ndarray, count: int) -> list[int]:
    """At most `count` of `values`, from the first to the last, evenly spaced."""
    index = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    return [int(values[position]) for position in index]


def interval_table(array: xr.DataArray) -> pd.DataFrame:
    """An array as rows: its other dimensions as columns, then estimate, low and high."""
    values = array.transpose(..., "interval").sel(interval=list(INTERVAL))
    *dims, _ = values.dims
    places = np.indices(values.shape[:-1]).reshape(len(dims), -1)
    labels = {dim: values.get_index(dim).take(place) for dim, place in zip(dims, places, strict=True)}
    return pd.DataFrame(labels | dict(zip(INTERVAL, values.values.reshape(-1, len(INTERVAL)).T, strict=True)))
