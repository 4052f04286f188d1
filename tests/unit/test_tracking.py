"""A study as a run of Weights & Biases: what is logged, and a real offline run read back."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gatebook.files import netcdf
from gatebook.report import tracking
from gatebook.report.tracking import BY_LAYER, BY_STEP, Made

FINDING = {
    "question": "Is the router sure?",
    "answer": "No.",
    "estimate": 0.8,
    "low": 0.75,
    "high": 0.85,
    "unit": "of ln E",
    "null_name": "all equal",
    "null_value": 1.0,
    "verdict": "no",
    "effect": "small",
    "figure": "entropy_by_layer",
    "measure": "entropy",
}
UNKNOWN = FINDING | {"question": "And sure again?", "estimate": None, "low": None, "high": None, "verdict": "unclear"}
ENTROPY = """measure,unit,class,dataset,layer,estimate,low,high
entropy,nats,,pooled,0,2.5,2.4,2.6
entropy,nats,,pooled,3,2.25,,
entropy,nats,,code,0,9,9,9
entropy,nats,token,pooled,0,9,9,9
mean_over_layers_entropy,nats,,pooled,,9,9,9
"""
EVOLUTION = """measure,unit,checkpoint,dataset,layer,estimate,low,high
balance,1,step400,pooled,0,9,9,9
mean_over_layers_balance,1,step0,pooled,,0.5,0.4,0.6
mean_over_layers_balance,1,step400,pooled,,0.25,0.2,0.3
"""
LOSS = "domain,checkpoint,estimate,low,high\npooled,step0,8.5,8.4,8.6\ncode,step0,9,9,9\nunigram,,9,9,9\n"


@pytest.fixture
def study(tmp_path, monkeypatch) -> dict[str, list[Made]]:
    """The working directory: what a study has made, of one model."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/figures/demo/step400/router_decisiveness")
    folder.mkdir(parents=True)
    (folder / "entropy_by_layer.svg").write_text("<svg>drawn</svg>")
    (folder / "entropy_by_layer.csv").write_text("layer,label\n0,one\n1,\n")
    words = {"figures": [{"name": "entropy_by_layer", "title": "Entropy"}], "findings": [FINDING, UNKNOWN]}
    (folder / "chapter.json").write_text(json.dumps(words))
    written = {"demo/step400/router_decisiveness": ENTROPY, "demo/evolution": EVOLUTION, "demo/held_out_loss": LOSS}
    for name, text in written.items():
        path = Path(f"results/tables/{name}.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    correlation = np.array([[[0.5, -0.5], [0.1, 0.1]]])
    flows = xr.Dataset({"logit_correlation": (("layer", "expert", "other"), correlation)}, coords={"layer": [3]})
    Path("results/metrics/demo/step400").mkdir(parents=True)
    netcdf.save(flows, "results/metrics/demo/step400/transitions.nc")
    Path("results/report").mkdir()
    Path("results/report/index.html").write_text("<p>The report.")
    return {
        "figures": tracking.made([folder], "figures"),
        "tables": tracking.made([f"results/tables/{name}.csv" for name in written], "tables"),
        "transitions": tracking.made(["results/metrics/demo/step400/transitions.nc"], "metrics"),
    }


def test_what_lies_where(study):
    assert study["figures"] == [
        Made("demo/step400", "router_decisiveness", Path("results/figures/demo/step400/router_decisiveness"))
    ]
    assert [(each.of, each.chapter) for each in study["tables"]][1] == ("demo", "evolution")
    (twice,) = tracking.made(["/figures/x/results/figures/demo/step400/maps"], "figures")
    assert (twice.of, twice.chapter) == ("demo/step400", "maps")
    assert tracking.key("a.b", "Größe x-1") == "a_b/Größe_x_1"


def test_headline_values_have_their_intervals_and_a_second_finding_its_own_key(study):
    table, headline = tracking.findings(study["figures"])
    name = "demo/step400/router_decisiveness/entropy"
    assert headline == {
        name: 0.8,
        f"{name}/low": 0.75,
        f"{name}/high": 0.85,
        f"{name}/verdict": "no",
        f"{name}_2/verdict": "unclear",
    }
    assert table["question"].tolist() == ["Is the router sure?", "And sure again?"]
    assert table.loc[0, ["of", "chapter", "null_value"]].tolist() == ["demo/step400", "router_decisiveness", 1.0]


def test_curves_are_of_all_datasets_without_other_coordinates(study):
    found = tracking.curves(study["tables"])
    name = "by_layer/demo/step400/router_decisiveness/entropy"
    assert found[BY_LAYER] == {0: {name: 2.5, f"{name}/low": 2.4, f"{name}/high": 2.6}, 3: {name: 2.25}}
    balance, loss = "by_step/demo/evolution/balance", "by_step/demo/held_out_loss/held_out_loss"
    assert found[BY_STEP] == {
        0: {
            **{balance: 0.5, f"{balance}/low": 0.4, f"{balance}/high": 0.6},
            **{loss: 8.5, f"{loss}/low": 8.4, f"{loss}/high": 8.6},
        },
        400: {balance: 0.25, f"{balance}/low": 0.2, f"{balance}/high": 0.3},
    }


def test_the_correlation_between_layers_is_the_mean_of_absolute_ones(study):
    (values,) = tracking.cross_layer(study["transitions"]).values()
    assert values == {"by_layer/demo/step400/transitions/mean_absolute_logit_correlation": pytest.approx(0.3)}


def records(path: Path) -> Iterator:
    """What is in the file of an offline run: records of protobuf in blocks of 32 KiB, as LevelDB's log has them."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def items(given) -> dict:
    """The items of a record by their key."""
    return {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in given}


@pytest.mark.slow
def test_an_offline_run_holds_it_all(study, run_script, tmp_path, monkeypatch):
    for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb" / name))
    for name, value in {"SILENT": "true", "CONSOLE": "off", "DISABLE_GIT": "true", "DISABLE_CODE": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(tracking, "MOST_ROWS", 4)  # so that one table is too long
    given = {kind: [each.path for each in found] for kind, found in study.items()}
    run_script(
        "track_wandb",
        tmp_path,
        input=given | {"report": "results/report"},
        output={"logged": "results/tracking.json"},
        params={
            "code": "c0de",
            "settings": {"project": "gatebook", "mode": "offline"},
            "config": {"study": {"title": "A study"}, "statistics": {"seed": 1}},
        },
    )
    assert json.loads(Path("results/tracking.json").read_text()) == {
        "project": "gatebook",
        "mode": "offline",
        "findings": 2,
        "values": 5,
        "left_out": ["tables/demo/step400/router_decisiveness"],
        "curves_by_layer": 4,
        "curves_by_step": 6,
        "tables": 4,
        "figures": 1,
    }
    (path,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    found = list(records(path))
    of = {kind: [getattr(each, kind) for each in found if each.WhichOneof("record_type") == kind] for kind in (
        "run", "summary", "history", "artifact", "metric"
    )}  # fmt: skip
    assert (of["run"][0].project, of["run"][0].display_name) == ("gatebook", "A study")
    config = items(of["run"][0].config.update)
    assert config["statistics"] == {"seed": 1}
    summary = {key: value for each in of["summary"] for key, value in items(each.update).items()}
    _, headline = tracking.findings(study["figures"])
    assert {key: summary[key] for key in headline} == headline
    rows = [items(each.item) for each in of["history"]]
    over = tracking.curves(study["tables"])
    correlation = "by_layer/demo/step400/transitions/mean_absolute_logit_correlation"
    assert next(row for row in rows if row.get("layer") == 3)[correlation] == pytest.approx(0.3)
    for place, kind in (("layer", BY_LAYER), ("training_step", BY_STEP)):
        logged = {row[place]: row for row in rows if place in row}
        assert logged.keys() == over[kind].keys()
        for number, values in over[kind].items():
            assert logged[number].items() >= values.items()
    steps = {each.glob_name: each.step_metric for each in of["metric"] if each.glob_name}
    assert steps == {"by_layer/*": "layer", "by_step/*": "training_step"}
    assert any(each.type == "report" for each in of["artifact"])
    logged = [each.read_bytes() for each in Path("wandb/DATA_DIR").rglob("*") if each.is_file()]
    assert b"<p>The report." in logged
    media = path.parent / "files" / "media"
    assert [page.read_text() for page in media.rglob("*.html")] == ["<h1>Entropy</h1><svg>drawn</svg>"]
    tables = {
        tuple(table["columns"]): table["data"]
        for table in map(json.loads, (p.read_text() for p in media.rglob("*.table.json")))
    }
    assert tables["layer", "label"] == [[0, "one"], [1, ""]]
    assert tables[tuple(EVOLUTION.split("\n")[0].split(","))][0] == ["balance", 1, "step400", "pooled", 0, 9, 9, 9]
