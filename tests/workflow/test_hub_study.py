"""A study of two checkpoints from the hub, played by a small server: who asks it for what, and what the results say."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hub_server import HubServer, Repository
from studies import Workflow, planned

from gatebook.files import checksums
from gatebook.run.metadata import ADOPTED

TEXTS = [f"{name} sold {number} eggs for {number * 2} dollars." for number in range(8) for name in ("Omar", "Łucja")]
MODEL, ROWS = "example/tiny-moe", "example/sales"
CHECKPOINTS = ["step5-tokens1B", "main"]
FETCHED = [*(f"results/models/tiny/{checkpoint}" for checkpoint in CHECKPOINTS), "results/datasets/sales.parquet"]
TALLIES = [f"results/tallies/tiny/{checkpoint}/sales.nc" for checkpoint in CHECKPOINTS]


@pytest.fixture(scope="module")
def hub(model_folder, other_model_folder):
    """The hub with the tiny model at two revisions, and a dataset of which a study wants the first rows."""
    folders = dict(zip(CHECKPOINTS, (other_model_folder, model_folder), strict=True))
    files = {name: {path.name: path.read_bytes() for path in folder.iterdir()} for name, folder in folders.items()}
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"sentence": text} for text in TEXTS]), buffer)
    rows = {"main": {"README.md": b"Sales.", "data/test-00000-of-00001.parquet": buffer.getvalue()}}
    with HubServer(Repository("model", MODEL, files), Repository("dataset", ROWS, rows)) as server:
        yield server


@pytest.fixture(scope="module")
def finished(hub, new_workflow):
    """The study up to its tallies, fetched first; with the requests that the jobs after the fetching made."""
    study = new_workflow("hub")
    models = {"tiny": {"source": "hub", "id": MODEL, "checkpoints": CHECKPOINTS, "device": "cpu"}}
    sales = {"source": "hub", "path": ROWS, "split": "test", "revision": "main", "template": "{sentence}"}
    overlay = study.overlay(
        "hub.yaml",
        {
            "study": {"title": "From the hub", "models": ["tiny"], "datasets": ["sales"]},
            "models": models,
            "datasets": {"sales": sales | {"limits": {"documents": 12}}},
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE")
        patch.setenv("HF_ENDPOINT", hub.address)
        patch.setenv("HF_HOME", str(study.folder / "cache"))
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):  # a request to any other host comes to the server, too
            patch.setenv(name, hub.address)
            patch.setenv(name.lower(), hub.address)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        study.finish("--cores", "2", *FETCHED, configs=[overlay])
        fetching = len(hub.requests)
        study.finish("--cores", "2", *TALLIES, configs=[overlay])
    return study.folder, hub.requests[fetching:]


def test_only_the_fetch_rules_talk_to_the_hub(hub, finished):
    _, after = finished
    assert hub.requests
    assert after == []


def test_weights_are_fetched_once_and_linked(hub, finished):
    folder, _ = finished
    assert len(hub.asked("/model.safetensors")) == len(CHECKPOINTS)
    for checkpoint in CHECKPOINTS:
        weights = folder / "results/models/tiny" / checkpoint / "model.safetensors"
        assert weights.is_symlink()
        assert weights.resolve().is_relative_to(folder / "cache")


def test_tallies_name_the_commits_and_checksums_of_what_they_were_made_from(hub, finished, model_folder):
    folder, _ = finished
    model, rows = hub.repositories["model", MODEL], hub.repositories["dataset", ROWS]
    for checkpoint, path in zip(CHECKPOINTS, TALLIES, strict=True):
        attributes = xr.load_dataset(folder / path).attrs
        assert (attributes["model_id"], attributes["checkpoint"]) == (MODEL, checkpoint)
        assert attributes["model_revision"] == model.commit(checkpoint)
        assert attributes["weights_sha256"] == checksums.sha256(
            folder / "results/models/tiny" / checkpoint / "model.safetensors"
        )
        assert (attributes["dataset_id"], attributes["dataset_revision"]) == (ROWS, rows.commit("main"))
        assert attributes["dataset_sha256"] == checksums.sha256(folder / "results/datasets/sales.parquet")
    assert attributes["weights_sha256"] == checksums.sha256(model_folder / "model.safetensors")


def test_both_checkpoints_saw_the_same_tokens_and_routed_them_differently(finished, tokenizer):
    folder, _ = finished
    early, late = (xr.load_dataset(folder / path) for path in TALLIES)
    assert early.attrs["tokens_sha256"] == late.attrs["tokens_sha256"]
    assert early.attrs["weights_sha256"] != late.attrs["weights_sha256"]
    expected = [len(tokenizer(text)["input_ids"]) for text in TEXTS[:12]]
    with xr.open_dataset(folder / "results/inputs/tiny/sales.nc") as tokens:
        np.testing.assert_array_equal(tokens["document_tokens"], expected)
    for tally in (early, late):
        assert int(tally["selected_count"].sum()) == sum(expected) * 3 * 4  # 3 experts per token, 4 layers
    assert not np.array_equal(early["selected_count"], late["selected_count"])


@pytest.mark.parametrize("kept", [True, False], ids=["with metadata", "without metadata"])
def test_what_version_0_1_fetched_stands_and_what_other_code_fetched_does_not(finished, tmp_path, kept):
    study = Workflow(tmp_path / "moved")
    shutil.copytree(finished[0], study.folder, symlinks=True, dirs_exist_ok=True)
    _, earlier, *_ = ADOPTED["fetch_model.py"]
    for code, jobs in {earlier: {}, "0123456789abcdef": {"fetch_model": 2, "tokenize_dataset": 1}}.items():
        study.restamp("fetch_model", code)
        if not kept:
            shutil.rmtree(study.folder / ".snakemake")
        again = planned(study.finish("--dry-run", *TALLIES, configs=[study.folder / "hub.yaml"]))
        assert again.items() >= jobs.items() and bool(jobs) == bool(again)
