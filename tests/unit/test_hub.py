"""The hub, played by a small server on this machine: what is fetched, from which commit, and a sentence when not."""

import errno
import gzip
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import HubServer, Repository
from huggingface_hub import constants
from item_cases import items_of, write_hub
from transformers import AutoModel, AutoTokenizer

from gatebook.files import atomic
from gatebook.inputs import hub, items
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.inputs.rows import read
from gatebook.inputs.templates import Column
from gatebook.problem import Problem
from gatebook.routing import models

MODEL, ROWS = "example/tiny-moe", "example/rows"
TEXTS = [{"text": f"é{number}", "label": number} for number in range(5)]
BESIDE = {
    "README.md": b"A model.",
    "pytorch_model.bin": b"pickle",
    "modeling_tiny.py": b"raise SystemExit",
    "original/model.safetensors": b"the same weights once more",
    "consolidated.safetensors": b"and once more",
}


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


@pytest.fixture
def model(model_folder, other_model_folder) -> Repository:
    """A model with an early and a last checkpoint, and files that a study has no use for."""
    files = [
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (other_model_folder, model_folder)
    ]
    return Repository("model", MODEL, {"step5-tokens1B": files[0], "main": files[1] | BESIDE})


@pytest.fixture
def rows() -> Repository:
    """A dataset with a split of five rows, and an older revision of two."""
    card = {"README.md": b"---\nlicense: mit\n---\nRows."}
    name = "data/test-00000-of-00001.parquet"
    return Repository("dataset", ROWS, {"v1": card | {name: parquet(TEXTS[:2])}, "main": card | {name: parquet(TEXTS)}})


@pytest.fixture
def server(model, rows, monkeypatch, tmp_path):
    """The hub with one model and one dataset, and an empty cache; it knows two access tokens."""
    with HubServer(model, rows, known=("hf_reader", "hf_other")) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.address)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


def fetch_rows(revision: str = "main", *, path: str = ROWS, split: str = "test", **options) -> pa.Table:
    return hub.fetch_rows("lines", path, name=None, split=split, revision=revision, **{"limit": None} | options)


def sentence(raised) -> str:
    text = str(raised.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("revision", ["main", "step5-tokens1B"])
def test_a_branch_is_resolved_to_its_commit_and_its_files(server, model, revision, tmp_path):
    snapshot = hub.fetch_model("tiny", MODEL, revision)
    assert hub.commit(snapshot) == model.commit(revision)
    wanted = {name: content for name, content in model.revisions[revision].items() if name not in BESIDE}
    assert {path.name: path.read_bytes() for path in snapshot.rglob("*")} == wanted
    assert hub.fetch_model("tiny", MODEL, model.commit(revision)) == snapshot


def test_python_files_are_fetched_only_when_they_are_trusted(server):
    fetched = {path.name for path in hub.fetch_model("tiny", MODEL, "main").iterdir()}
    trusted = {path.name for path in hub.fetch_model("tiny", MODEL, "main", trust_remote_code=True).iterdir()}
    assert trusted - fetched == {"modeling_tiny.py"}


def test_a_broken_connection_is_taken_up_where_it_broke(server, model, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.cuts["model.safetensors"] = 5500
    snapshot = hub.fetch_model("tiny", MODEL, "main")
    assert (snapshot / "model.safetensors").read_bytes() == model.revisions["main"]["model.safetensors"]
    ranges = [request.headers.get("Range") for request in server.asked("/model.safetensors")]
    assert [asked for asked in ranges if asked] == ["bytes=5000-"]


def test_files_that_are_complete_are_not_fetched_again(server, monkeypatch):
    get = huggingface_hub.file_download.http_get

    def stop(url, *arguments, **options):
        if url.endswith("model.safetensors"):
            raise KeyboardInterrupt
        return get(url, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(huggingface_hub.file_download, "http_get", stop)
        hub.fetch_model("tiny", MODEL, "main")
    assert server.asked("/tokenizer.json")
    server.requests.clear()
    hub.fetch_model("tiny", MODEL, "main")
    assert [request.target.rpartition("/")[2] for request in server.requests if "/storage/" in request.target] == [
        "model.safetensors"
    ]
    assert not server.asked("/tokenizer.json")


def test_a_complete_snapshot_in_the_cache_will_do_without_the_hub(server, monkeypatch):
    snapshot = hub.fetch_model("tiny", MODEL, "main")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert hub.fetch_model("tiny", MODEL, "main") == snapshot
    assert not server.requests


def test_weights_that_are_only_pickled_are_refused_before_the_download(server, model):
    del model.revisions["main"]["model.safetensors"]
    with pytest.raises(Problem, match=r"^models\.tiny: example/tiny-moe at revision main has no \*\.safetensors file"):
        hub.fetch_model("tiny", MODEL, "main")
    assert not server.asked("/config.json")


def test_a_disk_without_room_is_refused_before_the_download(server, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(Problem) as raised:
            hub.fetch_model("tiny", MODEL, "main")
        assert "hub has 1.00 kB free: make room" in sentence(raised)
        assert not server.asked("/config.json")
    hub.fetch_model("tiny", MODEL, "main")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    hub.fetch_model("tiny", MODEL, "main")  # what is in the cache needs no room


def test_a_disk_that_fills_up_is_one_sentence(server, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    with pytest.raises(Problem, match=r"hub is full: make room there, or set HF_HOME") as raised:
        hub.fetch_model("tiny", MODEL, "main")
    sentence(raised)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(("limit", "expected"), [(3, TEXTS[:3]), (None, TEXTS)])
def test_rows_are_the_first_of_the_split_and_keep_their_commit(server, rows, limit, expected):
    table = fetch_rows(limit=limit)
    assert table.to_pylist() == expected
    assert table.schema.metadata == {b"commit": rows.commit("main").encode()}


def test_rows_are_those_that_have_a_value(server, rows):
    assert fetch_rows(where={"label": [1, 3, 4]}, limit=2).to_pylist() == [TEXTS[1], TEXTS[3]]
    with pytest.raises(Problem, match=r"datasets\.lines\.where: no row has label: 9"):
        fetch_rows(where={"label": 9})


def test_rows_are_those_of_the_revision(server, rows):
    for revision in ("v1", rows.commit("v1")):
        table = fetch_rows(revision)
        assert table.to_pylist() == TEXTS[:2]
        assert table.schema.metadata == {b"commit": rows.commit("v1").encode()}
    files = [request.target for request in server.requests if "/resolve/" in request.target]
    assert files
    assert all(f"/resolve/{rows.commit('v1')}/" in target for target in files)  # the branch may move meanwhile


def test_a_folder_of_the_same_name_is_not_taken_for_the_dataset(server, tmp_path, monkeypatch):
    (tmp_path / ROWS).mkdir(parents=True)
    (tmp_path / ROWS / "test.jsonl").write_text('{"text": "not this"}\n')
    monkeypatch.chdir(tmp_path)
    assert fetch_rows().to_pylist() == TEXTS


WRITTEN = {"day": "2024-01-01", "code": "007", "version": "1.10", "large": "12345678901234567890", "none": "NA"}
JSON = '{"day": "2024-01-01", "code": "007", "version": 1.10, "large": 12345678901234567890, "none": "NA"}'
CELLS = [",".join(part) for part in (WRITTEN, WRITTEN.values())]
AS_WRITTEN = {
    "test.jsonl": f"{JSON}\n",
    "test.json": f"[{JSON}]",
    "test.jsonl.gz": f"{JSON}\n",
    "test.csv": "\n".join(CELLS),
    "test.tsv": "\n".join(CELLS).replace(",", "\t"),
    "test.csv.gz": "\n".join(CELLS),
}


def untyped(rows: Repository, **files: str | bytes):
    """Let the dataset hold these files alone, __ in their names for a dot."""
    given = {name.replace("__", "."): content for name, content in files.items()}
    rows.revisions["main"] = {
        name: content if isinstance(content, bytes) else content.encode() for name, content in given.items()
    }


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_values_without_types_are_as_they_are_written(server, rows, name):
    content = AS_WRITTEN[name].encode()
    rows.revisions["main"] = {name: gzip.compress(content) if name.endswith(".gz") else content}
    assert fetch_rows().to_pylist() == [WRITTEN]


def test_rows_without_types_may_differ_in_their_columns(server, rows):
    lines = ['{"a": 1, "meta": {}}', '{"b": [1.50, null], "meta": {"x": true}}', '{"a": "x", "messages": [{"y": 2}]}']
    untyped(rows, train__jsonl="\n".join(lines[:2]), test__jsonl=lines[2])
    expected = [
        {"a": "1", "meta": None},
        {"meta": {"x": True}, "b": ["1.50", None]},
        {"a": "x", "messages": [{"y": "2"}]},
    ]
    absent = dict.fromkeys(("a", "meta", "b", "messages"))
    assert fetch_rows(split="train+test").to_pylist() == [absent | row for row in expected]


CARD = "---\nconfigs:\n- config_name: default\n  data_files: [{{split: test, path: test.{}}}]\n  {}\n---\n"
UNREADABLE = {
    "not JSON": (
        {"test__jsonl": '{"a": 1}\n{"a": '},
        r"test\.jsonl cannot be read as json \(line 2: .*\): use another",
    ),
    "not UTF-8": ({"test__csv": b"a\n\xe9\n"}, r"test\.csv cannot be read as csv \(line 2 is not UTF-8"),
    "a separator": (
        {"test__csv": "a;b\n1;2\n", "README__md": CARD.format("csv", 'sep: ";"')},
        r"needs the separator ';', and files without types are read as they are: set `revision: refs/convert/parquet`",
    ),
    "an option": (
        {"test__json": '{"data": [{"a": 1}]}', "README__md": CARD.format("json", "field: data")},
        r"needs the option 'field', and files without types",
    ),
    "mixed": (
        {"test__jsonl": '{"a": "x"}\n{"a": [1]}\n'},
        r"hold the values of the column 'a' together \(.*\): download",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_files_without_types_that_cannot_be_read_are_one_sentence(server, rows, case):
    files, expected = UNREADABLE[case]
    untyped(rows, **files)
    with pytest.raises(Problem, match=rf"^datasets\.lines: .*{expected}") as raised:
        fetch_rows()
    sentence(raised)


@pytest.mark.parametrize("change", [{"split": "train"}, {"split": "tset"}])
def test_a_split_that_is_not_there_is_one_sentence(server, change):
    with pytest.raises(
        Problem, match=r"^datasets\.lines: example/rows at revision main cannot be fetched \("
    ) as raised:
        fetch_rows(**change)
    assert change["split"] in sentence(raised)


# ---------------------------------------------------------------- what stands in the way of both


def gated(server, token, monkeypatch):
    for repository in server.repositories.values():
        repository.reader = "hf_reader"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)


IN_THE_WAY = {
    "no network": (
        lambda server, patch: server.__exit__(),
        "main",
        "{what}: {hub} cannot be reached ([Errno 111] Connection refused): check the network and run again.",
    ),
    "offline": (
        lambda server, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True),
        "main",
        "{what} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it: unset it.",
    ),
    "gated, no token": (
        lambda server, patch: gated(server, None, patch),
        "main",
        "{what} is gated: accept its terms on {page}, and set HF_TOKEN to your access token.",
    ),
    "gated, another's token": (
        lambda server, patch: gated(server, "hf_other", patch),
        "main",
        "{what} is gated, and not open to your access token: ask for access on {page}.",
    ),
    "unknown token": (
        lambda server, patch: patch.setenv("HF_TOKEN", "hf_expired"),
        "main",
        "{what}: the hub refuses the access token: renew HF_TOKEN, or unset it.",
    ),
    "unknown repository": (
        lambda server, patch: server.repositories.clear(),
        "main",
        "{what} is not on the hub, or it is private: correct `{place}`, or set HF_TOKEN to an access token that may "
        "read it.",
    ),
    "unknown revision": (
        lambda server, patch: None,
        "v9",
        "{what} is not on the hub: use a branch, tag or commit that {page} lists.",
    ),
    "unknown commit": (
        lambda server, patch: None,
        "9" * 40,
        "{what} is not on the hub: use a branch, tag or commit that {page} lists.",
    ),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_stands_in_the_way_is_one_sentence(server, monkeypatch, kind, case):
    change, revision, expected = IN_THE_WAY[case]
    change(server, monkeypatch)
    with pytest.raises(Problem) as raised:
        hub.fetch_model("tiny", MODEL, revision) if kind == "model" else fetch_rows(revision)
    key, repository, place, page = {
        "model": ("models.tiny", MODEL, "id", f"{server.address}/{MODEL}"),
        "dataset": ("datasets.lines", ROWS, "path", f"{server.address}/datasets/{ROWS}"),
    }[kind]
    what = f"{key}: {repository} at revision {revision}"
    assert sentence(raised) == expected.format(what=what, hub=server.address, page=page, place=place)


def test_the_reader_of_a_gated_repository_gets_it(server, monkeypatch, model):
    gated(server, "hf_reader", monkeypatch)
    assert hub.commit(hub.fetch_model("tiny", MODEL, "main")) == model.commit("main")
    assert fetch_rows().to_pylist() == TEXTS
    stored = [request for request in server.requests if request.target.startswith("/storage/")]
    assert stored
    assert not any("Authorization" in request.headers for request in stored)


# ---------------------------------------------------------------- snapshots as model folders, and the scripts


def test_linked_snapshots_load_as_model_folders_without_a_second_copy(server, model, model_folder, tmp_path):
    with atomic.atomic_directory(tmp_path / "results" / "main") as partial:
        hub.link_snapshot(hub.fetch_model("tiny", MODEL, "main"), partial)
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
    assert models.describe(folder) == models.describe(model_folder) | {"model_revision": model.commit("main")}


def test_a_snapshot_in_the_hubs_cache_is_a_local_model_folder(server, model_folder):
    snapshot = hub.fetch_model("tiny", MODEL, "main")
    assert (snapshot / "config.json").is_symlink()
    assert models.describe(snapshot) == models.describe(model_folder)
    text = "Omar sold 4 eggs"
    assert load_tokenizer(str(snapshot))(text) == load_tokenizer(str(model_folder))(text)


def test_links_keep_the_folders_of_a_snapshot(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    (tmp_path / commit / "deep").mkdir(parents=True)
    (tmp_path / commit / "deep" / "a.json").write_text("{}")
    (tmp_path / "linked").mkdir()
    hub.link_snapshot(tmp_path / commit, tmp_path / "linked")
    assert json.loads((tmp_path / "linked" / "deep" / "a.json").read_text()) == {}
    assert (tmp_path / "linked" / "commit.txt").read_text() == f"{commit}\n"


def run_fetch_model(run_script, tmp_path: Path, revision: str):
    run_script(
        "fetch_model",
        tmp_path,
        output={"folder": str(tmp_path / "model")},
        params={"model": {"id": MODEL, "revision": revision, "trust_remote_code": False}},
        wildcards={"model": "tiny", "checkpoint": revision},
    )


def test_the_script_links_a_checkpoint(server, model, run_script, tmp_path):
    run_fetch_model(run_script, tmp_path, "step5-tokens1B")
    commit = model.commit("step5-tokens1B")
    assert models.describe(tmp_path / "model")["model_revision"] == commit
    assert (tmp_path / "fetch_model.log").read_text() == f"{MODEL} at step5-tokens1B: commit {commit}\n"


def test_the_script_leaves_nothing_when_a_checkpoint_cannot_be_fetched(server, run_script, tmp_path):
    with pytest.raises(Problem, match=r"models\.tiny: example/tiny-moe at revision v1 is not on the hub"):
        run_fetch_model(run_script, tmp_path, "v1")
    assert not [path for path in tmp_path.iterdir() if "model" in path.name and path.suffix != ".log"]


def test_the_script_writes_rows_that_can_be_read(server, rows, run_script, tmp_path):
    settings = {"path": ROWS, "name": None, "split": "test", "revision": "main", "documents": 2}
    run_script(
        "fetch_dataset",
        tmp_path,
        output={"rows": str(tmp_path / "lines.parquet")},
        params={"dataset": settings},
        wildcards={"dataset": "lines"},
    )
    file = str(tmp_path / "lines.parquet")
    assert [row.columns for row in read("datasets.lines", [file], [Column("text"), Column("label")])] == TEXTS[:2]
    assert pq.read_schema(file).metadata[b"commit"].decode() == rows.commit("main")
    log = (tmp_path / "fetch_dataset.log").read_text()
    assert log == f"{ROWS} at main: commit {rows.commit('main')}, 2 rows\n"


def test_items_are_fetched_in_the_layout_of_mmlu(server, run_script, tmp_path):
    given = {split: items_of(split) for split in items.SPLITS}
    write_hub(tmp_path / "mmlu", given)
    card = "---\nconfigs:\n- config_name: all\n  data_files:\n"
    card += "".join(f"  - split: {split}\n    path: all/{split}-*\n" for split in given) + "---\n"
    files = {f"all/{path.name}": path.read_bytes() for path in (tmp_path / "mmlu/all").iterdir()}
    repository = Repository("dataset", "example/mmlu", {"main": files | {"README.md": card.encode()}})
    server.repositories["dataset", repository.name] = repository
    output, about = tmp_path / "items", {"path": repository.name, "revision": "main"}
    run_script("fetch_items", tmp_path, output={"rows": output}, params={"repository": about})
    assert {split: items.read(str(output), split) for split in given} == given
