"""A study of published counts, from a CSV file to the report; and what is wrong with it in one sentence."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from studies import ROOT, SELECTED, TOKENS, planned

from gatebook.files import checksums

EXAMPLE = ROOT / "config" / "examples" / "published_counts.yaml"


@pytest.fixture(scope="module")
def study(counts_study):
    """The finished study."""
    return counts_study


def page(study, name: str) -> str:
    """The words of a page of the report."""
    text = (study.folder / "results/report" / name).read_text(encoding="utf-8")
    return " ".join(re.sub("<[^>]+>", " ", text).split())


def test_the_example_can_be_planned(workflow):
    (workflow.folder / "data").mkdir()
    (workflow.folder / "data/olmoe_counts.csv").write_text("domain\n")
    dry = workflow.finish("--dry-run", configs=[EXAMPLE])
    jobs = planned(dry)
    assert jobs["tally_counts"] == jobs["describe_counts"] == 1
    assert not {"tokenize_dataset", "extract_routing", "tally_routing", "train_model"} & jobs.keys()


def test_tallies_hold_the_counts_and_say_where_they_are_from(study):
    checksum = checksums.sha256(study.folder / "data/counts.csv")
    for domain in TOKENS:
        tally = xr.load_dataset(study.folder / f"results/tallies/published/v1/{domain}.nc")
        expected = [SELECTED[domain, layer] for layer in (0, 7)]
        np.testing.assert_array_equal(tally["selected_count"].isel(document=0), expected)
        assert tally["layer"].values.tolist() == [0, 7] and tally.sizes["rank"] == 2
        assert tally["tokens"].values.tolist() == [TOKENS[domain]]
        assert tally.attrs["dataset_sha256"] == checksum
        assert tally.attrs["model_id"] == "allenai/OLMoE-1B-7B-0924"
        assert json.loads(tally.attrs["provenance"])["rule"] == "tally_counts"


def test_chapters_that_need_only_counts_are_there_and_no_others(study):
    folder = study.folder / "results/report"
    chapters = {"selection_frequency", "domain_specialization"}
    assert {path.stem for path in folder.glob("*.html")} == chapters | {"index", "methods"}
    domains = xr.load_dataset(study.folder / "results/metrics/published/v1/domain_specialization.nc")
    largest = domains["largest_specialization"].sel(interval="estimate")
    np.testing.assert_allclose(largest.sel(dataset="github"), 0.8, atol=0.01)
    np.testing.assert_allclose(largest.sel(dataset="arxiv"), [0.5, 1.0], atol=0.01)
    load = xr.load_dataset(study.folder / "results/metrics/published/v1/selection_frequency.nc")
    assert load["dead_experts"].sel(dataset="pooled", interval="estimate").values.tolist() == [0, 1]
    assert np.isfinite(load["gini"]).all() and load["design_effect"] == 4


def test_the_report_says_what_it_rests_on_and_what_is_not_known(study):
    summary, methods = page(study, "index.html"), page(study, "methods.html")
    assert "published counts of 2 datasets, 30,000 tokens" in summary
    assert "Placement, Reuse, Similarity of experts, Maps, Evolution: published counts do not allow it" in summary
    assert "Intervals 95 %: tokens drawn independently, with a design effect" in summary
    assert "a design effect of 4 allowed for" in page(study, "selection_frequency.html")
    assert "1 of 8 experts are never selected." in summary
    assert "bootstrap" not in summary + methods
    assert checksums.sha256(study.folder / "data/counts.csv") in methods
    assert "domain github of data/counts.csv" in methods
    assert "z-loss" not in methods and "Router saturation, top 8, mean over layers 40 % of training 0.8247" in methods
    assert "Load-balancing loss; Router z-loss" in page(study, "selection_frequency.html")
    domains = page(study, "domain_specialization.html")
    assert re.search(r"github 7 0\.7696 0\.[78]\d* \[0\.\d+, 0\.\d+\] 0\.0\d+ no", domains)
    assert "most specialized expert, top 8, github, layer 15" in domains


def test_nothing_is_to_be_done_again_and_other_counts_run_all(study):
    counts = study.folder / "data/counts.yaml"
    assert planned(study.finish("--dry-run", configs=[counts])) == {}
    changed = study.overlay("data/changed.yaml", {"models": {"published": {"experts_per_token": 3}}})
    jobs = planned(study.finish("--dry-run", configs=[counts, changed]))
    assert {"describe_counts", "tally_counts", "measure_selection_frequency", "build_report"} <= jobs.keys()
