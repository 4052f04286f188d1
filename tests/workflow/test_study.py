"""The tiny study from nothing to the report: what comes out, and what runs again when something changes."""

import json
import re
import zipfile
from fnmatch import fnmatch
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from studies import ROOT, planned

from gatebook import chapters
from gatebook.atlas import browser_page, profiles_page
from gatebook.figures.words import format_estimate
from gatebook.routing.following import complete
from gatebook.routing.rule import routing_rule_of
from gatebook.study import tallies

CONFIG = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
OF = {"checkpoint": "demo/step20", "model": "demo", "runs": "runs"}
CHAPTERS = {name: OF[chapters.declared(name).scope] for name in CONFIG["chapters"]}
"""Chapters, and where their files are below metrics, tables and figures."""


class Links(HTMLParser):
    """The links, images and anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.anchors |= {found["id"]} if "id" in found else set()


def test_nothing_is_to_be_done_after_a_finished_study(tiny_study, tiny_config):
    again = tiny_study.finish("--cores", "2", configs=[tiny_config])
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.long
def test_one_core_and_two_cores_give_the_same_bytes(tiny_study, tiny_config, workflow):
    chapters = ["step20/similarity", "step20/expert_ablation", "step20/meaning", "expert_circuits"]
    targets = [
        f"results/metrics/demo/{name}.nc" for name in chapters
    ]  # and what they need, two other chapters among it
    workflow.finish("--cores", "1", *targets, "results/browser/demo/step20", configs=[tiny_config])
    one, two = workflow.checksums(), tiny_study.checksums()
    assert one == {name: two[name] for name in one}
    kinds = {"demo", "inputs", "routing", "tallies", "tasks", "ablation", "metrics", "draws", "tables", "browser"}
    assert {name.split("/")[0] for name in one} == kinds


def test_every_result_is_whole_and_signed(tiny_study):
    results = tiny_study.folder / "results"
    assert not list(results.rglob("*.partial"))
    for path in results.rglob("*.nc"):
        with xr.open_dataset(path) as dataset:
            provenance = json.loads(dataset.attrs["provenance"])
        assert provenance["rule"] and len(provenance["code"]) == 16
        assert provenance["software"]["torch"]
    for path in (results / "metrics").rglob("*_*.nc"):
        with xr.open_dataset(path) as dataset:
            assert re.fullmatch("[0-9a-f]{64}", dataset.attrs["weights_sha256"])


def test_records_follow_the_storage_contract(tiny_study):
    results = tiny_study.folder / "results"
    tokens = xr.load_dataset(results / "inputs/demo/stories.nc")
    folder = results / "routing/demo/step20/stories"
    names = ["highest.nc", "layer_0.nc", "layer_1.nc", "predictions.nc", "states.nc", "tally_*.nc"]
    found = sorted(path.name for path in folder.glob("*.nc"))
    assert len(found) == len(names) and all(map(fnmatch, found, names))
    record = xr.load_dataset(folder / "layer_1.nc")
    assert dict(record.sizes) == {"token": tokens.sizes["token"], "expert": 8, "rank": 2}
    assert set(record.data_vars) == {"router_logits", "selected_expert"}
    assert record["selected_expert"].dtype == np.uint8
    assert tallies.routing_rule(record.attrs)["top_k"] == 2
    assert record.attrs["tokens_sha256"] == tokens.attrs["tokens_sha256"]
    logits = record["router_logits"].values.astype(np.float64)
    chosen = np.take_along_axis(logits, record["selected_expert"].values.astype(int), axis=1)
    np.testing.assert_array_equal(chosen, -np.sort(-logits, axis=1)[:, :2])
    whole = complete({name: array.values for name, array in record.items()}, routing_rule_of(record.attrs))
    np.testing.assert_allclose(
        whole["routing_weight"], np.exp(chosen) / np.exp(logits).sum(axis=1, keepdims=True), rtol=1e-5
    )


def test_tallies_count_every_token_of_the_records(tiny_study):
    results = tiny_study.folder / "results"
    tally = xr.load_dataset(results / "tallies/demo/step20/stories.nc")
    for layer in (0, 1):
        record = xr.load_dataset(results / f"routing/demo/step20/stories/layer_{layer}.nc")
        expected = np.bincount(record["selected_expert"].values.ravel(), minlength=8)
        np.testing.assert_array_equal(tally["selected_count"].sel(layer=layer).sum("document"), expected)


def test_a_statistics_setting_runs_no_extraction_again(tiny_study, tiny_config):
    overlay = tiny_study.overlay("statistics.yaml", {"statistics": {"seed": 2}})
    jobs = planned(tiny_study.finish("--dry-run", configs=[tiny_config, overlay]))
    # Which draw nothing at random, or with a seed of their own.
    own = {"annotation", "coactivation", "expert_ablation", "factors", "meaning", "reach"}
    random = CHAPTERS.keys() - own
    again = {f"measure_{name}" for name in random} | {"plot_chapter", "profile_experts"}
    assert jobs.keys() == again | {"build_report", "record_provenance"}
    assert jobs["plot_chapter"] == len(random)


def test_one_more_dataset_leaves_the_others_alone(tiny_study, tiny_config):
    datasets = ["unicode", "arithmetic", "stories", "stories_short"]
    more = {
        "study": {"datasets": datasets},
        "datasets": {"stories_short": {"source": "demo", "domain": "stories", "limits": {"documents": 3}}},
    }
    jobs = planned(tiny_study.finish("--dry-run", configs=[tiny_config, tiny_study.overlay("more.yaml", more)]))
    assert "train_model" not in jobs
    assert (jobs["tokenize_dataset"], jobs["extract_routing"], jobs["tally_routing"]) == (1, 2, 2)


def test_the_report_is_complete_and_links_only_to_itself(tiny_study):
    folder = tiny_study.folder / "results" / "report"
    pages = {path.name: Links(path.read_text(encoding="utf-8")) for path in folder.glob("*.html")}
    others = {"index", "methods", "experts-demo", "browser-demo"}
    assert set(pages) == {f"{name}.html" for name in others | set(CHAPTERS)}
    for name, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme:
                assert target.scheme == "https" and name == "methods.html", link
                continue
            file = unquote(target.path) or name
            assert (folder / file).is_file(), link
            if target.fragment and not target.fragment.startswith("tab="):
                assert target.fragment in pages[file].anchors, link


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_report_says_what_the_metrics_hold(tiny_study, chapter):
    results = tiny_study.folder / "results"
    of = CHAPTERS[chapter]
    words = json.loads((results / f"figures/{of}/{chapter}/chapter.json").read_text(encoding="utf-8"))
    names = [f"{chapter}.html", *(["index.html"] if chapters.declared(chapter).first_screen else [])]
    pages = [(results / "report" / page).read_text(encoding="utf-8") for page in names]
    assert words["findings"] or chapter == "expert_retention"  # there is no gain after 20 steps
    for finding in words["findings"]:
        estimate, bounds = format_estimate(finding["estimate"], finding["low"], finding["high"])
        assert all(estimate in page and bounds in page for page in pages)
    for figure in words["figures"]:
        assert len(figure["alt"]) >= 40 and re.search("[0-9]|not available", figure["alt"])
        assert "n = " in figure["caption"]
        assert (results / "report" / "figures" / of / chapter / f"{figure['name']}.svg").is_file()


def test_the_report_has_the_table_of_expert_sets_and_the_methods_of_pages_without_a_chapter(tiny_study):
    results, table = tiny_study.folder / "results", "tables/demo/step20/expert_sets.csv"
    assert (results / "report" / table).read_bytes() == (results / table).read_bytes()
    assert table in (results / "report/browser-demo.html").read_text(encoding="utf-8")
    methods = (results / "report/methods.html").read_text(encoding="utf-8")
    for page in (browser_page, profiles_page):
        assert all(f"<h3>{measure.title}</h3>" in methods for measure in page.MEASURES)


def test_findings_netcdf_and_csv_hold_the_same_number(tiny_study):
    results = tiny_study.folder / "results"
    metrics = xr.load_dataset(results / "metrics/demo/step20/router_decisiveness.nc")
    words = json.loads((results / "figures/demo/step20/router_decisiveness/chapter.json").read_text(encoding="utf-8"))
    expected = float(metrics["mean_over_layers_normalised_entropy"].sel(dataset="pooled", interval="estimate"))
    assert words["findings"][0]["estimate"] == expected
    table = pd.read_csv(results / "tables/demo/step20/router_decisiveness.csv")
    rows = table[(table["measure"] == "entropy") & (table["dataset"] == "stories")].sort_values("layer")
    pd.testing.assert_series_equal(
        rows["estimate"].reset_index(drop=True),
        pd.Series(metrics["entropy"].sel(dataset="stories", interval="estimate").values, name="estimate"),
        rtol=1e-5,
    )


def test_snakemakes_own_report_holds_the_site_and_every_figure(tiny_study, snakemake_report):
    with zipfile.ZipFile(snakemake_report) as archive:
        names = archive.namelist()
    figures = list((tiny_study.folder / "results/figures").rglob("*.svg"))
    assert len(figures) >= 20
    for figure in figures:
        assert any(name.endswith(f"/{figure.name}") for name in names), figure.name
    assert any(name.endswith("/index.html") for name in names)
