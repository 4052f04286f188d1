"""A study of routing traces, from a file to the report: what experts in no order allow, what is left out and why."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from studies import ROOT, planned

EXAMPLE = ROOT / "config" / "examples" / "traces.yaml"
EXPERTS, TOP_K, LAYERS, DOCUMENTS, LENGTH = 6, 2, (1, 3), 12, 20
STUDY = {
    "study": {"title": "Traces", "models": ["served"], "datasets": ["chat"], "tasks": [], "probes": []},
    "chapters": ["router_decisiveness", "selection_frequency", "reach", "transitions", "coactivation"],
    "models": {
        "served": {
            "source": "traces",
            "id": "some/model",
            "revision": "v1",
            "trace_layers": list(LAYERS),
            "experts_per_layer": EXPERTS,
            "experts_per_token": TOP_K,
        }
    },
    "datasets": {"chat": {"source": "traces", "traces": "data/chat.npz"}},
    "compare": [],
    "statistics": {"resamples": 100, "fewest_clusters": 2},
}


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    """What tokens select, (token, layer, rank); the first token has no record."""
    random = np.random.default_rng(0).random((DOCUMENTS * LENGTH, len(LAYERS), EXPERTS))
    found = np.argsort(random, axis=-1)[..., :TOP_K]
    found[0] = -1
    return found


@pytest.fixture(scope="module")
def study(new_workflow, ids):
    """The finished study."""
    made = new_workflow("traces")
    (made.folder / "data").mkdir()
    document = np.repeat(np.arange(DOCUMENTS), LENGTH)
    np.savez(made.folder / "data/chat.npz", topk_ids=ids, input_ids=document % 7, document=document)
    made.finish("--cores", "2", configs=[made.overlay("data/traces.yaml", STUDY)])
    return made


def test_the_example_can_be_planned(workflow):
    (workflow.folder / "data/code").mkdir(parents=True)
    (workflow.folder / "data/chat.jsonl").write_text("{}\n")
    jobs = planned(workflow.finish("--dry-run", configs=[EXAMPLE]))
    assert jobs["read_traces"] == jobs["import_traces"] == jobs["tally_routing"] == 2 and jobs["fetch_tokenizer"] == 1
    assert not {"tokenize_dataset", "extract_routing", "describe_model", "build_browser"} & jobs.keys()


def test_the_loads_are_those_of_the_file(study, ids):
    tally = xr.load_dataset(study.folder / "results/tallies/served/v1/chat.nc")
    expected = [np.bincount(ids[1:, place].ravel(), minlength=EXPERTS) for place in range(len(LAYERS))]
    np.testing.assert_array_equal(tally["selected_count"].sum("document"), expected)
    assert tally["layer"].values.tolist() == list(LAYERS) and "first_count" not in tally
    assert json.loads(tally.attrs["provenance"])["rule"] == "tally_routing"


def test_the_report_has_what_is_known_and_says_what_was_left_out_and_why(study):
    folder = study.folder / "results/report"
    assert {path.stem for path in folder.glob("*.html")} == {
        "selection_frequency", "coactivation", "index", "methods",
    }  # fmt: skip
    page = " ".join(re.sub("<[^>]+>", " ", (folder / "index.html").read_text(encoding="utf-8")).split())
    assert "routing traces of 1 datasets, 12 documents of 12 clusters, 239 tokens" in page
    assert "Transitions: the traces hold experts in no order (models.served.holds)" in page
    assert "Router decisiveness: the traces hold no router logits (models.served.holds)" in page
    assert "1 tokens of chat: not recorded (-1)" in page and "Reach: traces hold no model" in page


def test_what_is_exported_as_parquet_and_imported_again_has_the_same_metrics(study):
    study.finish("--cores", "2", "routing_parquet", configs=[study.folder / "data/traces.yaml"])
    chat = {"source": "traces", "traces": "results/parquet/served/chat"}
    model = STUDY["models"]["served"] | {"holds": "ids"}
    again = STUDY | {
        "study": STUDY["study"] | {"models": ["again"]},
        "models": {"again": model},
        "datasets": {"chat": chat},
    }
    files = [f"{{}}/again/v1/{name}.nc" for name in ("selection_frequency", "coactivation")]
    metrics = [file.format("results/metrics") for file in files]
    study.finish("--cores", "2", *metrics, configs=[study.overlay("data/again.yaml", again)])
    for path in metrics:
        found, first = (xr.load_dataset(study.folder / each) for each in (path, path.replace("again", "served")))
        xr.testing.assert_equal(found, first)
