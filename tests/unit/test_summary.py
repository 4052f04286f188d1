"""Summaries: intervals and means over layers of every measure, differences of checkpoints, and tables."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from gatebook.chapters.base.contract import Measure
from gatebook.measures import summary, uncertainty
from gatebook.measures.summary import Bootstrap, Jackknife

MEASURES = {
    "load": Measure("Load", "1", "c / T", "A share.", bounds=(0, 1)),
    "spread": Measure("Spread", "tokens", "std c", "A spread.", bounds=(0, np.inf), bias="square"),
    "rest": Measure("Rest", "1", "r", "No draws have it."),
}
DATASETS = ["pooled", "code"]


def some_draws(seed: int = 0, draws: int = 50) -> xr.Dataset:
    """Two datasets, three layers; the first draw is the sample."""
    values = np.random.default_rng(seed).uniform(0.2, 0.8, (2, 2, 3, draws))
    dims = ("dataset", "layer", "draw")
    coords = {"dataset": DATASETS, "layer": [0, 2, 5]}
    return xr.Dataset({"load": (dims, values[0]), "spread": (dims, 100 * values[1])}, coords=coords)


@pytest.mark.parametrize("method", [Bootstrap(0.9), Jackknife(0.9)])
def test_every_measure_and_its_mean_over_layers_have_intervals_and_names(method):
    draws = some_draws()
    found = summary.summarise(draws, MEASURES, method)
    assert list(found) == ["load", "mean_over_layers_load", "spread", "mean_over_layers_spread"]
    for name in ("load", "spread"):
        measure = MEASURES[name]
        for each, values, words in (
            ("", draws[name], ""),
            (summary.MEAN, draws[name].mean("layer"), ", mean over layers"),
        ):
            expected = method.interval(values, measure.bounds, measure.bias)
            xr.testing.assert_equal(found[each + name], expected)
            if not measure.bias:
                np.testing.assert_array_equal(found[each + name].sel(interval="estimate"), values.isel(draw=0))
            attributes = {"long_name": measure.title + words, "units": measure.units, "formula": measure.formula}
            assert found[each + name].attrs == attributes


def test_every_measure_is_corrected_as_it_declares():
    draws, bias = some_draws(), {"load": "", "spread": "square"}
    expected = {name: uncertainty.interval(draws[name], 0.9, MEASURES[name].bounds, bias[name]) for name in draws}
    found = summary.summarise(draws, MEASURES, Bootstrap(0.9))
    for name in draws:
        xr.testing.assert_equal(found[name], expected[name])
    assert not np.allclose(expected["spread"], Bootstrap(0.9).interval(draws["spread"], (0, np.inf)))
    others = some_draws(1)["spread"]
    apart = [
        Bootstrap(0.9).difference(draws["spread"], others, (0, np.inf), *bias) for bias in ((), ("",), ("square",))
    ]
    xr.testing.assert_equal(apart[0], apart[1])
    assert not np.allclose(apart[0], apart[2])


def test_datasets_of_few_clusters_have_no_limits():
    draws = some_draws()
    metrics = summary.summarise(draws, MEASURES, Bootstrap(0.9)).assign(clusters=("dataset", [12, 7]))
    found = summary.of_enough(summary.Measured(metrics, draws), 8)
    assert found.draws is draws and found.metrics.attrs["fewest_clusters"] == 8
    xr.testing.assert_identical(found.metrics["load"].sel(dataset="pooled"), metrics["load"].sel(dataset="pooled"))
    few = found.metrics["load"].sel(dataset="code")
    xr.testing.assert_equal(few.sel(interval="estimate"), metrics["load"].sel(dataset="code", interval="estimate"))
    assert few.sel(interval=["low", "high"]).isnull().all()


def test_draws_of_a_mean_of_their_own_are_taken():
    draws = some_draws().assign(mean_over_layers_load=lambda made: made["load"].max("layer"))
    found = summary.summarise(draws, MEASURES, Bootstrap(0.9))["mean_over_layers_load"]
    np.testing.assert_array_equal(found.sel(interval="estimate"), draws["load"].max("layer").isel(draw=0))
    assert found.attrs["long_name"] == "Load, mean over layers"


def test_draws_have_any_name_and_without_layers_there_is_no_mean():
    draws = some_draws()[["load"]].isel(layer=0, drop=True).rename(draw="draw_of_experts")
    found = summary.summarise(draws, MEASURES, Jackknife(0.9))
    assert list(found) == ["load"] and found["load"].dims == ("dataset", "interval")


def test_datasets_are_jackknifed_one_by_one_or_together():
    draws = some_draws(draws=21)["load"].copy()
    draws[1, :, 4] = np.nan  # the group of which the second dataset holds no document
    apart, together = (Jackknife(0.9, together).interval(draws, (0, 1)) for together in (False, True))
    for index in range(2):
        alone = uncertainty.jackknife(draws.isel(dataset=[index]), 0.9, (0, 1))
        xr.testing.assert_equal(apart.isel(dataset=[index]).transpose(*alone.dims), alone)
    xr.testing.assert_equal(together, uncertainty.jackknife(draws, 0.9, (0, 1)))
    single = draws.isel(dataset=0, drop=True)
    xr.testing.assert_equal(Jackknife(0.9).interval(single, (0, 1)), uncertainty.jackknife(single, 0.9, (0, 1)))


def test_a_difference_is_ours_minus_theirs_for_what_both_have():
    ours, theirs = some_draws(1), some_draws(2)
    found = summary.differences(ours, theirs.drop_vars("spread"), MEASURES, Bootstrap(0.9))
    assert list(found) == ["load", "mean_over_layers_load"]
    apart = (ours["load"] - theirs["load"]).isel(draw=0)
    np.testing.assert_array_equal(found["load"].sel(interval="estimate"), apart)
    np.testing.assert_allclose(found["mean_over_layers_load"].sel(interval="estimate"), apart.mean("layer"))
    assert found["load"].attrs["long_name"] == "Load, difference from the untrained model"
    words = "Load, mean over layers, difference from the untrained model"
    assert found["mean_over_layers_load"].attrs == {"long_name": words, "units": "1", "formula": "c / T"}
    fewer = summary.differences(ours, theirs.isel(draw=slice(40)), MEASURES, Bootstrap(0.9))
    assert list(fewer) == []


@pytest.mark.parametrize("method", [Bootstrap(0.9), Jackknife(0.9)])
def test_a_difference_has_no_bounds_and_the_interval_of_its_method(method):
    ours, theirs = some_draws(1)["spread"], some_draws(2)["spread"]
    found = method.difference(ours, theirs, (-np.inf, np.inf), bias="square")
    expected = (
        uncertainty.difference_interval(theirs, ours, 0.9, bias="square")
        if isinstance(method, Bootstrap)
        else method.interval(ours - theirs, (-np.inf, np.inf))
    )
    xr.testing.assert_equal(found, expected)
    assert float(found.min()) < -1


def test_a_table_has_a_row_for_each_dataset_and_layer():
    values = np.arange(12.0).reshape(2, 2, 3)
    dims, coords = ("dataset", "layer", "interval"), {"dataset": DATASETS, "layer": [0, 5]}
    known = xr.DataArray(values, coords | {"interval": ["estimate", "low", "high"]}, dims, attrs={"units": "tokens"})
    found = summary.table(xr.Dataset({"load": known, "spread": known}), ["spread", "rest", "load"])
    assert found.columns.tolist() == ["measure", "unit", "dataset", "layer", "estimate", "low", "high"]
    assert found["measure"].tolist() == ["spread"] * 4 + ["load"] * 4 and set(found["unit"]) == {"tokens"}
    assert found.index.tolist() == list(range(8))
    row = found[(found["measure"] == "load") & (found["dataset"] == "code") & (found["layer"] == 5)]
    assert row[["estimate", "low", "high"]].values.tolist() == [[9, 10, 11]]
    expected = pd.DataFrame({"layer": [0, 5], "estimate": [6.0, 9], "low": [7.0, 10], "high": [8.0, 11]})
    pd.testing.assert_frame_equal(summary.interval_table(known.sel(dataset="code", drop=True)), expected)


def test_a_table_has_means_over_layers_and_nulls_beside_their_measures():
    dims, coords = ("dataset", "layer", "expert"), {"dataset": DATASETS, "layer": [0, 5], "expert": [1, 3]}
    load = xr.DataArray(np.arange(8.0).reshape(2, 2, 2), coords, dims, attrs={"units": "1"})
    mean = load.mean("layer", keep_attrs=True)
    with_limits = load.mean("expert", keep_attrs=True).expand_dims(interval=["estimate", "low", "high"], axis=-1)
    metrics = xr.Dataset(
        {
            "load": load,
            "mean_over_layers_load": mean,
            "null_load": xr.DataArray([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dims=("layer", "interval")),  # estimate first
            "spread": with_limits,
            "mean_over_layers_spread": with_limits.mean("layer", keep_attrs=True),
            "null_spread": xr.DataArray([7.0, 8], dims="dataset"),
            "mean_over_layers_null_spread": xr.DataArray([9.0, 10], dims="dataset"),
            "rest": with_limits,
        }
    )
    found = summary.table(metrics, ["load", "spread", "rest"], "by_chance")
    columns = ["measure", "unit", "expert", "dataset", "layer", "estimate", "low", "high", "by_chance"]
    assert found.columns.tolist() == columns
    assert found["layer"].dtype == "Int64" and found["dataset"].tolist()[:4] == ["pooled"] * 4
    of = {name: rows.drop(columns="measure") for name, rows in found.groupby("measure")}
    assert {name: len(rows) for name, rows in of.items()} == {
        "load": 8, "mean_over_layers_load": 4, "spread": 4, "mean_over_layers_spread": 2, "rest": 4
    }  # fmt: skip
    assert of["load"]["by_chance"].tolist() == [0.1, 0.1, 0.4, 0.4] * 2
    assert of["mean_over_layers_load"]["by_chance"].tolist() == [0.25] * 4  # the mean of the nulls of the layers
    assert of["spread"]["by_chance"].tolist() == [7, 7, 8, 8]
    assert of["mean_over_layers_spread"]["by_chance"].tolist() == [9, 10]
    assert of["rest"]["by_chance"].isna().all()
    assert of["load"]["layer"].tolist() == [0, 0, 5, 5] * 2 and of["load"]["low"].isna().all()
    assert of["mean_over_layers_load"]["layer"].isna().all()
    assert "by_chance" not in summary.table(metrics, ["load", "spread"])


def test_what_a_row_of_a_table_lacks_is_empty_where_it_is_a_word():
    one, other = (
        xr.DataArray([1.0, 2], {dim: ["a", "b"]}, [dim], attrs={"units": "1"}) for dim in ("dataset", "token_type")
    )
    found = summary.table(xr.Dataset({"one": one, "other": other}), ["one", "other"])
    assert found["dataset"].tolist() == ["a", "b", "", ""] and found["token_type"].tolist() == ["", "", "a", "b"]


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [([3, 4, 9], 5, [3, 4, 9]), (range(10), 4, [0, 3, 6, 9]), (range(5), 1, [0]), ([1, 5], 2, [1, 5])],
)
def test_spread_takes_evenly_spaced_values_from_the_first_to_the_last(values, count, expected):
    assert summary.spread(np.array(values), count) == expected
