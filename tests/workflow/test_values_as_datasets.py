"""One file with many domains is as many datasets, and what an overlay names like the default study is its own."""

import json

import pyarrow as pa
import pytest
import xarray as xr
import yaml
from studies import ROOT, planned

from gatebook.run.alone import read_workflow

EXAMPLE = ROOT / "config/examples/domains.yaml"
VALUES = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["datasets"]["pile"]["values"]


@pytest.fixture
def mixture(workflow, model_folder):
    """The example of domains, with a tiny model, and a function that runs it, with other values if they are given."""
    rows = [
        {"text": f"{value} has sold {number} eggs.", "meta": {"pile_set_name": value}}
        for number in range(3)
        for value in [*VALUES, "Sonnets"]
    ]
    (workflow.folder / "data").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (workflow.folder / "data/mixture.jsonl.zst").write_bytes(pa.compress(lines, "zstd", asbytes=True))
    model = {"source": "local", "path": str(model_folder), "device": "cpu"}

    def run(*arguments: str, values: list[str] = VALUES):
        changes = {"study": {"models": ["tiny"]}, "models": {"tiny": model}, "datasets": {"pile": {"values": values}}}
        return workflow.finish(*arguments, configs=[EXAMPLE, workflow.overlay("changes.yaml", changes)])

    return run


def test_a_value_is_a_dataset_and_another_value_leaves_the_others_alone(mixture, workflow):
    target = "results/inputs/tiny/pile_Wikipedia_en.nc"
    mixture("--cores", "1", target)
    with xr.open_dataset(workflow.folder / target) as tokens:
        assert tokens["text"].values.tolist() == [f"Wikipedia (en) has sold {number} eggs." for number in range(3)]
        assert tokens["row"].values.tolist() == [20 + 23 * number for number in range(3)]
        assert tokens.attrs["dataset_id"] == "data/mixture.jsonl.zst (meta[pile_set_name]: Wikipedia (en))"
    again = mixture("--dry-run", target, "results/inputs/tiny/pile_Sonnets.nc", values=["Sonnets", "Wikipedia (en)"])
    assert planned(again) == {"tokenize_dataset": 1}


def test_the_example_has_a_dataset_of_each_value(workflow, monkeypatch):
    (workflow.folder / "data").mkdir()
    (workflow.folder / "data/mixture.jsonl.zst").touch()
    monkeypatch.chdir(workflow.folder)
    with read_workflow(".", [EXAMPLE]) as read:
        names = list(read.globals["study"].datasets)
    assert len(names) == len(set(names)) == len(VALUES) == 22
    assert {"pile_Wikipedia_en", "pile_Pile-CC", "pile_Gutenberg_PG-19"} <= set(names)


def test_an_entry_of_another_source_inherits_nothing(workflow, model_folder, monkeypatch):
    (workflow.folder / "rows.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    first = {"datasets": {"poems": {"source": "hub", "path": "a/b", "split": "test", "revision": "main"}}}
    names = {name: {"source": "files", "files": ["rows.jsonl"]} for name in ("science", "poems")}
    overlay = {
        "study": {"title": "Mine", "models": ["demo"], "datasets": list(names)},
        "models": {"demo": {"source": "local", "path": str(model_folder)}},
        "datasets": names,
        "compare": [],
    }
    overlays = [workflow.overlay("first.yaml", first), workflow.overlay("second.yaml", overlay)]
    monkeypatch.chdir(workflow.folder)
    with read_workflow(".", overlays, {"models": {"demo": {"gpus": 3}}}) as read:
        study = read.globals["study"]
    assert study.models["demo"]["checkpoints"] == ["local"] and "untrained" not in study.models["demo"]
    assert study.models["demo"]["gpus"] == 3
    for dataset in study.datasets.values():  # one has the name of a dataset of the default study, one of an overlay
        assert dataset["files"] == ["rows.jsonl"] and not {"domain", "path"} & dataset.keys()
