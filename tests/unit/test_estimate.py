"""The size of a report is known before the study, within 20 % of those that were measured."""

import json
from pathlib import Path

import pytest
import yaml

from gatebook.atlas import budget
from gatebook.problem import Problem
from gatebook.report import estimate

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text(encoding="utf-8"))
FORMER = {"pairs": 64, "triples": 32, "stored_tokens": 100_000, "texts": 8, "plots": 2}
MEASURED = {"highest": 30, "middle": 0, "random": 20, "texts": 6}
"""The settings with which reports were measured."""


def sizes(layers: int, experts: int, top_k: int, datasets: int, tokens: int, *, without=(), **browser) -> dict:
    """What is estimated for a model and so many tokens of each dataset, in MB by key."""
    model = {"model": "a", "layers": layers, "experts": experts, "top_k": top_k, "datasets": datasets}
    chapters = [name for name in CONFIG["chapters"] if name not in without]
    found = estimate.sizes([model | {"tokens": datasets * tokens}], chapters, CONFIG["browser"] | browser)
    return {key: of_models["a"] / 1e6 for key, of_models in found.items()}


@pytest.mark.parametrize(
    ("given", "measured"),
    [
        ((4, 32, 4, 14, 12_000), (2.14, 18.0, 30.3)),
        ((2, 8, 2, 3, 1500), (0.2, 9.86, 15.2)),
    ],
)
def test_reports_are_near_what_was_measured(given, measured):
    """Of the embedded study and of the tiny one of the tests."""
    assert list(sizes(*given).values()) == pytest.approx(measured, rel=0.2, abs=0.1)


@pytest.mark.parametrize(("settings", "measured"), [({}, 11.2), (FORMER, 16.0)])
def test_a_larger_browser_without_shades_is_near_what_was_measured(settings, measured):
    assert sizes(16, 64, 8, 12, 80_000, **MEASURED | settings)["browser.megabytes"] == pytest.approx(measured, rel=0.2)


LIMITS = {"report.megabytes": 20, "report.download_megabytes": 50}


def test_a_study_that_fits_passes_and_one_that_does_not_names_every_limit_at_once():
    small = {"report.megabytes": {"a": 10_000_000, "b": 10**7}, "report.download_megabytes": {"a": 5 * 10**7}}
    estimate.check(small, LIMITS)
    estimate.check({key: {"a": 10**12} for key in LIMITS}, {})
    with pytest.raises(Problem) as raised:
        estimate.check(
            {
                "report.megabytes": {"a": 11_000_000, "b": 18_000_000},
                "report.download_megabytes": {"a": 30_000_000, "b": 30_000_000},
            },
            LIMITS,
        )
    assert str(raised.value) == (
        "config: the report would take about 29.0 MB for report.megabytes of 20, 60.0 MB for "
        "report.download_megabytes of 50: set report.megabytes to 38, report.download_megabytes to 78, or study fewer "
        "models, layers or datasets at a time."
    )


@pytest.mark.parametrize(
    "size", [(16, 64, 8, 12, 80_000), (48, 128, 8, 2, 3000), (4, 32, 4, 14, 12_000), (2, 8, 2, 3, 1500)]
)
def test_budgets_leave_room_for_a_study_of_their_size(size):
    layers, experts, _, datasets, _ = size
    found = sizes(*size)
    assert found["browser.megabytes"] < budget.browser(layers, experts, datasets)
    chapters = len(CONFIG["chapters"])
    assert found["report.megabytes"] < budget.shown(layers, experts, datasets, chapters)
    assert found["report.download_megabytes"] < budget.downloads(layers, experts, datasets, chapters)


def test_budgets_at_the_size_where_they_are_stated():
    assert (budget.browser(16, 64, 12), budget.shown(16, 64, 12, 10)) == (12, 20)
    assert budget.downloads(16, 64, 12, 10) == pytest.approx(62)


def test_what_rests_on_pairs_counts_only_with_its_chapters():
    without = sizes(48, 128, 8, 2, 3000, without=["coactivation", "similarity", "transitions"])
    added = sizes(48, 128, 8, 2, 3000)["report.download_megabytes"] - without["report.download_megabytes"]
    assert added == pytest.approx(48 * 128 * 128 * (42 + 37 + 134) / 1e6 + 0.5)


def test_the_script_refuses_a_study_by_what_its_models_are(run_script, tmp_path):
    description = tmp_path / "model.json"
    description.write_text(json.dumps({"model": "a", "layers": list(range(48)), "experts": 128, "top_k": 8}))
    params = {"code": "", "datasets": 12, "tokens": {"a": 2_400_000}, "chapters": CONFIG["chapters"]}
    params |= {"browser": CONFIG["browser"], "limits": LIMITS}
    files = {"input": {"models": [description]}, "output": {"sizes": tmp_path / "sizes.json"}}
    with pytest.raises(Problem, match=r"^config: the report would take about .* for report\.megabytes of 20, "):
        run_script("estimate_report", tmp_path, **files, params=params)
    assert not files["output"]["sizes"].exists()
    run_script("estimate_report", tmp_path, **files, params=params | {"limits": dict.fromkeys(LIMITS, 1000)})
    assert json.loads(files["output"]["sizes"].read_text()).keys() >= LIMITS.keys()
