"""Several models side by side: layers and ranks of each, and a figure with a column for each."""

import numpy as np
import page_cases
import pytest
import xarray as xr

from gatebook.chapters.multiple_choice import MEASURES as ALL
from gatebook.chapters.multiple_choice_models import MEASURES, page
from gatebook.chapters.multiple_choice_models.measure import measure
from gatebook.measures.summary import Bootstrap, summarise

SHAPES = {"accuracy": ("dataset",), "renormalised_change": ("layer",)} | dict.fromkeys(
    ("rank_change", "rank_change_renormalised"), ("layer", "rank")
)


def metrics_of(layers: list[int], ranks: int, change: float) -> xr.Dataset:
    """The metrics of a model without which experts log-odds change so much more than without the control."""
    rng, sizes = np.random.default_rng(ranks), {"dataset": 2, "layer": len(layers), "rank": ranks}
    draws = xr.Dataset(coords={"dataset": ["pooled", "law"], "layer": layers, "rank": range(ranks)})
    for name in MEASURES:
        dims = SHAPES.get(name, ("dataset", "layer"))
        draws[name] = ("draw", *dims), 0.4 + 0.01 * rng.standard_normal((101, *(sizes[dim] for dim in dims)))
    draws["own_change"] = draws["control_change"] + change
    draws["own_minus_control"] = draws["own_change"] - draws["control_change"]
    metrics = summarise(draws, ALL, Bootstrap(0.95)).assign_attrs(confidence=0.95)
    for name in ("documents", "clusters", "tokens", "close_items"):
        metrics[name] = "dataset", np.array([40, 40])
    return metrics


@pytest.fixture(scope="module")
def joined() -> xr.Dataset:
    nothing = metrics_of([1, 2], 3, 0)
    nothing = nothing.assign({name: nothing[name] * np.nan for name in nothing if "change" in name or "own" in name})
    runs = {"a/main": metrics_of([0, 1, 2], 2, -0.5), "b/main": metrics_of([1, 2, 3, 4], 4, 0.0), "c/step0": nothing}
    return measure(runs)


def test_every_run_has_its_own_layers_and_ranks(joined):
    assert joined["each"].values.tolist() == ["a/main", "b/main", "c/step0"]
    assert joined["layer"].values.tolist() == [0, 1, 2, 3, 4] and joined["rank"].values.tolist() == [0, 1, 2, 3]
    known = np.isfinite(joined["rank_change"].sel(interval="estimate")).transpose("each", "layer", "rank")
    assert known.sum(("layer", "rank")).values.tolist() == [6, 16, 0]
    assert joined["own_minus_control"].sel(each="a/main", layer=1, interval="estimate").item() == pytest.approx(-0.5)
    assert joined["accuracy"].dims[0] == "each" and joined["dataset"].values.tolist() == ["pooled"]


def test_a_figure_has_a_column_for_each_model_from_which_something_was_removed(joined):
    shown = page_cases.seen("multiple_choice_models", joined)
    accuracy, by_model = page.figures(shown)
    assert "c/step0" in accuracy.alt and "c/step0" not in by_model.alt
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in by_model.drawing.axes]
    assert [title for title in titles if title][:2] == ["a/main, by expert set", "b/main, by expert set"]
    assert len([title for title in titles if title]) == 6
    one, other = page.findings(shown)
    assert (one.verdict, other.verdict) == ("yes", "unclear") and one.n == 40 and "n = 40 items" in by_model.caption


def test_without_changes_accuracy_alone_is_shown(joined):
    shown = page_cases.seen("multiple_choice_models", joined.sel(each=["c/step0"]))
    assert [figure.name for figure in page.figures(shown)] == ["accuracy"] and page.findings(shown) == []
