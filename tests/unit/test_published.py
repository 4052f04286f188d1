"""Published values beside a study's own."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from gatebook.report import published

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "config" / "reference").glob("*.yaml"))


def reference(**changes) -> dict:
    entry = {
        "name": "Share of the busiest expert",
        "chapter": "load",
        "measure": "largest",
        "where": {"dataset": "code", "selection": "first"},
        "layers": [0, 7],
        "percent": [50.0, 62.5],
    }
    whole = {"model_id": "a/b", "source": "Paper", "source_url": "https://example.org", "note": "Runs differ."}
    return whole | {"values": [entry | changes]}


@pytest.fixture
def metrics() -> xr.Dataset:
    """Estimates 0.5 and 0.75 in layers 0 and 3, with intervals of 0.1 to both sides, for one dataset."""
    estimate = np.array([0.5, 0.75])
    values = np.stack([estimate, estimate - 0.1, estimate + 0.1], axis=-1)[None, None]
    coords = {"dataset": ["code"], "selection": ["first"], "layer": [0, 3], "interval": ["estimate", "low", "high"]}
    return xr.Dataset({"largest": (tuple(coords), values)}, coords=coords, attrs={"model_id": "a/b"})


def test_a_value_within_the_interval_is_covered(metrics):
    found = published.beside(metrics, "load", reference(layers=[0, 3], percent=[45.0, 90.0]))
    assert (found["source"], found["source_url"], found["note"]) == ("Paper", "https://example.org", "Runs differ.")
    assert found["absent"] == []
    assert [row["layer"] for row in found["rows"]] == [0, 3]
    assert [row["covered"] for row in found["rows"]] == [True, False]
    np.testing.assert_allclose([row["difference"] for row in found["rows"]], [0.05, -0.15])
    np.testing.assert_allclose([row["published"] for row in found["rows"]], [0.45, 0.9])
    np.testing.assert_allclose([found["rows"][0][part] for part in ("estimate", "low", "high")], [0.5, 0.4, 0.6])


def test_without_an_interval_nothing_is_covered_or_not(metrics):
    metrics["largest"].loc[{"interval": ["low", "high"]}] = np.nan
    found = published.beside(metrics, "load", reference(layers=[0], percent=[45.0]))
    assert found["rows"][0]["covered"] is None
    assert found["rows"][0]["difference"] == pytest.approx(0.05)


def test_what_the_study_does_not_have_is_named(metrics):
    found = published.beside(metrics, "load", reference())
    assert [row["layer"] for row in found["rows"]] == [0]
    assert found["absent"] == ["Share of the busiest expert, code, layer 7"]
    found = published.beside(metrics, "load", reference(where={"dataset": "poems", "selection": "first"}))
    assert found["rows"] == []
    assert found["absent"] == ["Share of the busiest expert, poems"]
    found = published.beside(metrics.drop_vars("largest"), "load", reference())
    assert (found["rows"], found["absent"]) == ([], ["Share of the busiest expert, code"])


def test_another_model_or_chapter_has_nothing_published(metrics):
    assert published.beside(metrics.assign_attrs(model_id="a/c"), "load", reference()) is None
    assert published.beside(metrics, "similarity", reference()) is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_complete(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(content) == {"model_id", "source", "source_url", "note", "values", "unmeasured"}
    for entry in content["values"]:
        places = "layers" if "layers" in entry else "checkpoints"
        more = {"at"} if places == "checkpoints" else set()
        assert set(entry) == {"name", "chapter", "measure", "where", places, "percent", *more}
        assert all(len(entry[each]) == len(entry["percent"]) for each in (places, *more))
        assert all(0 < percent <= 100 for percent in entry["percent"])
        assert (ROOT / "scripts/gatebook/chapters" / entry["chapter"] / "measure.py").is_file()
    for row in published.unmeasured(content)["rows"]:
        assert set(row) == {"name", "at", "published"} and 0 < row["published"] <= 1


def test_what_is_published_of_training_is_beside_the_mean_over_layers_or_by_itself():
    entry = {
        "where": {"dataset": "code"},
        "measure": "mean",
        "checkpoints": ["step5", "step7"],
        "percent": [40.0, 80.0],
    }
    whole = reference(**entry | {"at": ["1 %", "2 %"]})
    del whole["values"][0]["layers"]
    values = xr.DataArray([[[0.5, 0.4, 0.6]]], dims=("dataset", "checkpoint", "interval"))
    values = values.assign_coords(dataset=["code"], checkpoint=["step5"])
    found = published.beside(xr.Dataset({"mean": values}, attrs={"model_id": "a/b"}), "load", whole)
    assert [(row["layer"], row["published"], row["covered"]) for row in found["rows"]] == [("all, step5", 0.4, True)]
    assert found["absent"] == ["Share of the busiest expert, code, checkpoint step7"]
    whole |= {"unmeasured": []}
    assert published.unmeasured(whole, ["load"])["rows"] == []
    assert [row["at"] for row in published.unmeasured(whole, ["other"])["rows"]] == ["1 %", "2 %"]


def test_what_no_chapter_measures_is_published_by_itself():
    saturation = {"name": "Saturation", "at": ["1 %", "40 % of training"], "percent": [51.36, 82.47]}
    found = published.unmeasured(reference() | {"unmeasured": [saturation]})
    assert (found["source"], found["source_url"], found["note"]) == ("Paper", "https://example.org", "Runs differ.")
    assert [row["at"] for row in found["rows"]] == ["1 %", "40 % of training"]
    assert [row["published"] for row in found["rows"]] == pytest.approx([0.5136, 0.8247])
