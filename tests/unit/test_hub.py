"""The hub without a network: one sentence for what cannot be fetched, and snapshots that load as model folders."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModel, AutoTokenizer

from moeatlas import hub, models, storage
from moeatlas.job import Problem

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "example/tiny-moe"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def snapshot(cache, model_folder) -> Path:
    """The tiny model as the hub's cache keeps it: blobs, a snapshot of links named after the commit, and a branch."""
    repository = cache / f"models--{REPOSITORY.replace('/', '--')}"
    folder = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in model_folder.iterdir():
        blob = repository / "blobs" / storage.sha256(file)
        blob.write_bytes(file.read_bytes())
        (folder / file.name).symlink_to(os.path.relpath(blob, folder))
    return folder


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_cached_model_is_found_by_branch_and_commit(snapshot, revision):
    fetched = hub.fetch_model(REPOSITORY, revision)
    assert fetched == snapshot
    assert hub.commit(fetched) == COMMIT


def test_linked_snapshots_load_as_model_folders_without_a_second_copy(snapshot, model_folder, tmp_path):
    with storage.atomic_directory(tmp_path / "results" / "main") as partial:
        hub.link_snapshot(snapshot, partial)
    folder = tmp_path / "results" / "main"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(path.name for path in model_folder.iterdir()), "commit.txt"]
    )
    assert (folder / "model.safetensors").is_symlink()
    assert (folder / "model.safetensors").resolve().parent.name == "blobs"
    loaded, original = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(model_folder)
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name))
    text = "Omar sold 4 eggs"
    expected = AutoTokenizer.from_pretrained(model_folder)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == expected
    description = models.describe(folder)
    assert description == models.describe(model_folder) | {"model_revision": COMMIT}


def test_links_keep_the_folders_of_a_snapshot(tmp_path):
    (tmp_path / COMMIT / "deep").mkdir(parents=True)
    (tmp_path / COMMIT / "deep" / "a.json").write_text("{}")
    (tmp_path / "linked").mkdir()
    hub.link_snapshot(tmp_path / COMMIT, tmp_path / "linked")
    assert json.loads((tmp_path / "linked" / "deep" / "a.json").read_text()) == {}
    assert (tmp_path / "linked" / "commit.txt").read_text() == f"{COMMIT}\n"


def test_a_model_that_cannot_be_fetched_is_one_sentence(cache):
    with pytest.raises(Problem, match=r"^model example/absent at revision v1 cannot be fetched \(") as raised:
        hub.fetch_model("example/absent", "v1")
    text = str(raised.value)
    assert text.endswith("): check its name, revision, access token (HF_TOKEN) and the network.")
    assert "\n" not in text


def test_a_revision_that_is_not_in_the_cache_is_one_sentence(snapshot):
    with pytest.raises(Problem, match=r"^model example/tiny-moe at revision v9 cannot be fetched \("):
        hub.fetch_model(REPOSITORY, "v9")


@pytest.mark.parametrize("name", ["not a name", "a/b/c"])
def test_a_name_that_the_hub_refuses_is_one_sentence(cache, name):
    with pytest.raises(Problem, match=f"^model {name} at revision main cannot be fetched"):
        hub.fetch_model(name, "main")


def test_a_dataset_that_cannot_be_fetched_is_one_sentence(cache, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(Problem, match=r"^dataset example/absent at revision main cannot be fetched \(") as raised:
        hub.fetch_rows("c4", "example/absent", name=None, split="test", revision="main", limit=3)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("limit", "expected"), [(3, [0, 1, 2]), (None, [0, 1, 2, 3, 4])])
def test_rows_are_the_first_of_the_split_at_the_revision(monkeypatch, limit, expected):
    import datasets

    asked = {}

    def stream(path, name, **options):
        asked.update(options, path=path, name=name)
        return ({"text": f"é{number}", "label": number} for number in range(5))

    monkeypatch.setattr(datasets, "load_dataset", stream)
    table = hub.fetch_rows("c4", "allenai/c4", name="en", split="validation", revision="abc", limit=limit)
    assert table.to_pydict() == {"text": [f"é{number}" for number in expected], "label": expected}
    assert asked == {"path": "allenai/c4", "name": "en", "split": "validation", "revision": "abc", "streaming": True}


def test_the_script_links_a_checkpoint(snapshot, run_script, tmp_path):
    run_script(
        "fetch_model",
        tmp_path,
        output={"folder": str(tmp_path / "model")},
        params={"code": "c0de", "model": {"id": REPOSITORY, "revision": "main"}},
    )
    assert models.describe(tmp_path / "model")["model_revision"] == COMMIT
    assert (tmp_path / "fetch_model.log").read_text() == f"{REPOSITORY} at main: commit {COMMIT}\n"


def test_the_script_leaves_nothing_when_a_checkpoint_cannot_be_fetched(cache, run_script, tmp_path):
    settings = {"id": "example/absent", "revision": "v1"}
    with pytest.raises(Problem, match="model example/absent at revision v1 cannot be fetched"):
        run_script("fetch_model", tmp_path, output={"folder": str(tmp_path / "model")}, params={"model": settings})
    assert not [path for path in tmp_path.iterdir() if "model" in path.name and path.suffix != ".log"]


def test_the_script_writes_rows_that_can_be_read(monkeypatch, run_script, tmp_path):
    import datasets
    import pyarrow.parquet as pq

    rows = [{"text": "one"}, {"text": "two"}, {"text": "three"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(rows))
    settings = {"path": "allenai/c4", "name": None, "split": "validation", "revision": "abc", "documents": 2}
    run_script(
        "fetch_dataset",
        tmp_path,
        output={"rows": str(tmp_path / "c4.parquet")},
        params={"dataset": settings},
        wildcards={"dataset": "c4"},
    )
    assert pq.read_table(tmp_path / "c4.parquet").to_pylist() == rows[:2]
