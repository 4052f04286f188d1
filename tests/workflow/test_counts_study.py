"""A study of published counts, from a CSV file to the report; and what is wrong with it in one sentence."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

from gatebook.files import checksums

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "published_counts.yaml"
DOMAINS, LAYERS, EXPERTS, TOP_K = ["github", "arxiv"], [0, 7], 4, 2
SELECTED = {  # 10 tokens of github and 20 of arxiv; expert 3 of layer 7 is never selected
    ("github", 0): [10, 4, 3, 3],
    ("github", 7): [5, 7, 8, 0],
    ("arxiv", 0): [10, 10, 10, 10],
    ("arxiv", 7): [20, 10, 10, 0],
}
TOKENS = {"github": 10, "arxiv": 20}


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"domain": domain, "layer": layer, "expert": expert, "selected_count": count, "tokens": TOKENS[domain]}
            for (domain, layer), counts in SELECTED.items()
            for expert, count in enumerate(counts)
        ]
    )


def config() -> dict:
    content = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    content["study"]["datasets"] = DOMAINS
    content["models"]["published"] |= {
        "files": ["counts.csv"],
        "experts_per_layer": EXPERTS,
        "experts_per_token": TOP_K,
    }
    return content


@pytest.fixture(scope="module")
def study(new_workflow):
    """The finished study."""
    made = new_workflow("counts")
    rows().to_csv(made.folder / "counts.csv", index=False)
    made.finish("--cores", "2", configs=[made.overlay("counts.yaml", config())])
    return made


def page(study, name: str) -> str:
    """The words of a page of the report."""
    text = (study.folder / "results/report" / name).read_text(encoding="utf-8")
    return " ".join(re.sub("<[^>]+>", " ", text).split())


def test_the_example_can_be_planned(workflow):
    (workflow.folder / "data").mkdir()
    (workflow.folder / "data/olmoe_counts.csv").write_text("domain\n")
    dry = workflow.finish("--dry-run", configs=[EXAMPLE])
    planned = dict(re.findall(r"^(\w+) +(\d+)$", dry.stdout, flags=re.MULTILINE))
    assert planned["tally_counts"] == planned["describe_counts"] == "1"
    assert not {"tokenize_dataset", "extract_routing", "tally_routing", "train_model"} & set(planned)


def test_tallies_hold_the_counts_and_say_where_they_are_from(study):
    checksum = checksums.sha256(study.folder / "counts.csv")
    for domain in DOMAINS:
        tally = xr.load_dataset(study.folder / f"results/tallies/published/main/{domain}.nc")
        expected = [SELECTED[domain, layer] for layer in LAYERS]
        np.testing.assert_array_equal(tally["selected_count"].isel(document=0), expected)
        assert tally["layer"].values.tolist() == LAYERS and tally.sizes["rank"] == TOP_K
        assert tally["tokens"].values.tolist() == [TOKENS[domain]]
        assert tally.attrs["dataset_sha256"] == checksum
        assert tally.attrs["model_id"] == "allenai/OLMoE-1B-7B-0924"
        assert json.loads(tally.attrs["provenance"])["rule"] == "tally_counts"


def test_chapters_that_need_only_counts_are_there_and_no_others(study):
    folder = study.folder / "results/report"
    chapters = {"selection_frequency", "domain_specialization"}
    assert {path.stem for path in folder.glob("*.html")} == chapters | {"index", "methods"}
    domains = xr.load_dataset(study.folder / "results/metrics/published/main/domain_specialization.nc")
    largest = domains["largest_specialization"].sel(interval="estimate")
    assert largest.sel(dataset="github").values.tolist() == [1.0, 0.8]
    assert largest.sel(dataset="arxiv").values.tolist() == [0.5, 1.0]
    load = xr.load_dataset(study.folder / "results/metrics/published/main/selection_frequency.nc")
    assert load["dead_experts"].sel(dataset="pooled", interval="estimate").values.tolist() == [0, 1]
    assert np.isnan(load["gini"].sel(interval=["low", "high"])).all()


def test_the_report_says_what_it_rests_on_and_what_is_not_known(study):
    summary, methods = page(study, "index.html"), page(study, "methods.html")
    assert "published counts of 2 datasets, 30 tokens" in summary
    assert "Token overlap, Co-activation, Similarity of experts, Maps: published counts do not allow it" in summary
    assert "Intervals not available: published counts do not say which document a token is from" in summary
    assert "1 of 8 experts are never selected." in summary
    assert "bootstrap" not in summary + methods
    assert checksums.sha256(study.folder / "counts.csv") in methods
    assert "domain github of counts.csv" in methods
    assert "z-loss" not in methods and "Router saturation, top 8, mean over layers 40 % of training 0.8247" in methods
    assert "Load-balancing loss; Router z-loss" in page(study, "selection_frequency.html")
    domains = page(study, "domain_specialization.html")
    assert "github 7 0.7696 0.8 interval not available 0.0304 not available" in domains
    assert "most specialized expert, top 8, github, layer 15" in domains


def test_nothing_is_to_be_done_again_and_other_counts_run_all(study):
    overlay = study.folder / "counts.yaml"
    again = study.finish("--dry-run", configs=[overlay])
    assert "Nothing to be done" in again.stdout + again.stderr
    changed = config()
    changed["models"]["published"]["experts_per_token"] = 3
    dry = study.finish("--dry-run", configs=[study.overlay("changed.yaml", changed)])
    planned = set(re.findall(r"^(\w+) +\d+$", dry.stdout, flags=re.MULTILINE))
    assert {"describe_counts", "tally_counts", "measure_selection_frequency", "build_report"} <= planned
