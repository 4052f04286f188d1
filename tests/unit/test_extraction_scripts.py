"""The scripts from a dataset's rows to its tally, one after another, on the tiny model."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM

from gatebook.files import checksums, netcdf, parts
from gatebook.problem import Problem
from gatebook.routing.records import CONTENTS, RecordWriter
from gatebook.study import counting, tallied

ROWS = [
    {"question": f"{name} sold {number} eggs for 2 dollars; how much did {name} get?", "answer": str(2 * number)}
    for number, name in enumerate(["Janet", "Omar", "Yuki", "Łucja"] * 6)
]
DATASET = {"source": "files", "template": "{question} {answer}", "sample_by": "line", "cluster": [], "limits": {}}
MODEL = {
    "layers": "all",
    "dtype": "auto",
    "device": "cpu",
    "attention": "auto",
    "experts": "auto",
    "gpus": 1,
    "trust_remote_code": False,
    "window": 16,
    "tokens_per_dataset": 400,
}
EXTRACTION = {
    "records": "exact",
    "predictions": False,
    "sample": {"size": 0, "seed": 0},
    "tokens_per_batch": {"cpu": 64, "cuda": 64},
    "threads": 1,
}


@pytest.fixture
def pipeline(run_script, model_folder, tmp_path):
    """Run the scripts up to the named one, with changed settings: the folder of what they wrote."""

    def run(
        last: str,
        *,
        dataset=None,
        model=None,
        extraction=None,
        folder=model_folder,
        place="out",
        rows=ROWS,
        part="gsm8k",
    ):
        out = tmp_path / place
        out.mkdir(exist_ok=True)
        (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = MODEL | (model or {})
        wildcards = {"model": "tiny", "checkpoint": "final", "dataset": "gsm8k", "part": part}
        tokens, description, records = (str(out / name) for name in ("tokens.nc", "model.json", "records"))
        window = {key: settings[key] for key in ("window", "tokens_per_dataset", "trust_remote_code")}
        files = [str(out / "rows.jsonl")]
        steps = {
            "tokenize_dataset": (
                {"tokenizer": str(folder), "files": files},
                {"tokens": tokens},
                {"dataset": DATASET | {"files": files} | (dataset or {}), "model": window},
            ),
            "describe_model": (
                {"folder": str(folder)},
                {"description": description},
                {"model": settings | {"path": "data/tiny"}, "predictions": True},
            ),
            "extract_routing": (
                {"folder": str(folder), "description": description, "tokens": tokens},
                {"records": records},
                {
                    "model": settings,
                    "extraction": EXTRACTION | (extraction or {}),
                    "place": parts.place_of(part),
                },
            ),
            "tally_routing": (
                {"tokens": tokens, "records": records},
                {"tally": str(out / "tally.nc")},
                {"place": parts.place_of(part)},
            ),
        }
        for name, (input, output, params) in steps.items():
            params = {"code": "c0de"} | params
            run_script(name, out, input=input, output=output, params=params, wildcards=wildcards)
            if name == last:
                return out
        raise AssertionError(last)

    return run


@pytest.mark.parametrize("most", [1000, 100])
def test_selections_are_those_of_the_records(pipeline, model_folder, run_script, most):
    out = pipeline("extract_routing")
    params = {"model": MODEL | {"path": "data/tiny"}, "tokens": {"tokens": most, "seed": 1}, "code": "c0de"}
    run_script(
        "select_experts",
        out,
        input={"folder": str(model_folder), "tokens": [str(out / "tokens.nc")]},
        output={"selections": str(out / "selections.nc")},
        params=params | {"tokens_per_batch": {"cpu": 64}, "windows": False},
        wildcards={"model": "tiny", "checkpoint": "step5"},
        threads=1,
    )
    found, description = netcdf.load(out / "selections.nc"), json.loads((out / "model.json").read_text())
    tokens = netcdf.load(out / "tokens.nc").sizes["token"]
    assert found.sizes == {"layer": 4, "token": min(most, tokens), "rank": 3}
    assert found["selected_expert"].dtype == np.uint8 and found.attrs["experts"] == 8
    for layer in range(4):
        records = netcdf.load(out / "records" / f"layer_{layer}.nc")["selected_expert"].values[found["token"].values]
        assert (found["selected_expert"].sel(layer=layer) == records).mean() > 0.99
    wanted = {"model": "tiny", "model_id": "data/tiny", "checkpoint": "step5"}
    wanted["weights_sha256"] = description["weights_sha256"]
    assert found.attrs.items() >= wanted.items()
    assert json.loads(found.attrs["provenance"])["code"] == "c0de"


def test_from_rows_to_a_tally(pipeline, model_folder, tokenizer):
    out = pipeline("tally_routing")
    texts = [f"{row['question']} {row['answer']}" for row in ROWS]
    ids = np.concatenate([tokenizer(text)["input_ids"] for text in texts])[:400]
    tokens = netcdf.load(out / "tokens.nc")
    np.testing.assert_array_equal(tokens["token_id"], ids)
    assert tokens["text"].values.tolist() == texts[: tokens.sizes["document"]]
    assert tokens.attrs["dataset_sha256"] == checksums.sha256(out / "rows.jsonl")

    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    starts = np.flatnonzero(tokens["position"].values == 0)
    logits = [[] for _ in range(4)]
    with torch.inference_mode():
        for window in np.split(ids, starts[1:]):
            assert len(window) <= 16
            found = model(torch.from_numpy(window[None].astype(np.int64)), output_router_logits=True).router_logits
            for layer in range(4):
                logits[layer].append(found[layer])
    tally = netcdf.load(out / "tally.nc")
    assert tally["layer"].values.tolist() == [0, 1, 2, 3]
    for layer in range(4):
        expected = torch.cat(logits[layer])
        with netcdf.open_lazily(out / "records" / f"layer_{layer}.nc") as records:
            np.testing.assert_allclose(records["router_logits"], expected, atol=1e-4)
            selected = records["selected_expert"].values
            recorded = records.attrs
        assert np.mean(selected == torch.softmax(expected, -1).topk(3).indices.numpy()) > 0.999
        counts = np.bincount(selected.ravel(), minlength=8)
        np.testing.assert_array_equal(tally["selected_count"].sel(layer=layer).sum("document"), counts)
        assert recorded["layer"] == layer
    assert tally["tokens"].values.tolist() == tokens["document_tokens"].values.tolist()

    description = json.loads((out / "model.json").read_text())
    assert description["layers"] == [0, 1, 2, 3]
    for attributes in (recorded, tally.attrs):
        assert attributes["model"] == "tiny"
        assert attributes["model_id"] == "data/tiny"
        assert attributes["checkpoint"] == "final"
        assert attributes["dataset"] == "gsm8k"
        assert attributes["weights_sha256"] == checksums.sha256(model_folder / "model.safetensors")
        assert attributes["tokens_sha256"] == tokens.attrs["tokens_sha256"]
        assert json.loads(attributes["routing_rule"])["top_k"] == 3
    assert json.loads(tally.attrs["provenance"])["code"] == "c0de"
    assert "tokens x 4 layers on cpu" in (out / "extract_routing.log").read_text()


@pytest.mark.slow
def test_two_runs_write_identical_bytes(pipeline):
    first = pipeline("tally_routing")
    kept = {path.name: path.read_bytes() for path in sorted(first.rglob("*.nc"))}
    second = pipeline("tally_routing")
    assert kept == {path.name: path.read_bytes() for path in sorted(second.rglob("*.nc"))}
    assert len(kept) == 7


@pytest.mark.slow
@pytest.mark.parametrize("contents", CONTENTS)
def test_the_tally_that_extraction_takes_is_the_one_from_the_files(pipeline, monkeypatch, contents):
    with monkeypatch.context() as without_counting:
        without_counting.setattr(counting, "tally_layer", None)
        out = pipeline("tally_routing", extraction={"records": contents})
    (beside,) = (out / "records").glob("tally_*.nc")
    assert beside == tallied.path(out / "records")
    taken, numbers = (out / "tally.nc").read_bytes(), itertools.count()
    # As after an edit of the code: what lies beside the records has another name.
    monkeypatch.setattr(tallied, "path", lambda records: Path(records) / f"tally_{next(numbers)}.nc")
    assert (pipeline("tally_routing", extraction={"records": contents}) / "tally.nc").read_bytes() == taken


@pytest.mark.slow
def test_shards_of_a_dataset_combine_into_the_whole(pipeline, run_script, tmp_path):
    batches = {"cpu": 1}  # of one window: those of a shard are then those of the whole
    settings = {"extraction": {"predictions": True, "sample": {"size": 2, "seed": 0}, "tokens_per_batch": batches}}
    whole = pipeline("tally_routing", **settings)
    shards = [pipeline("tally_routing", part=part, place=part, **settings) for part in parts.names("gsm8k", 3)]
    for name, along in {"layer_3.nc": "token", "predictions.nc": "token", "states.nc": "sample"}.items():
        with netcdf.open_joined([out / "records" / name for out in shards], along) as joined:
            one = netcdf.load(whole / "records" / name)
            xr.testing.assert_equal(joined, one)
    assert netcdf.load(shards[2] / "records/layer_3.nc").attrs["first_token"] > 200

    inputs = {"shards": [str(out / "tally.nc") for out in shards]}
    output = {"tally": str(tmp_path / "tally.nc")}
    run_script("combine_tallies", tmp_path, input=inputs, output=output, params={"code": "c0de"})
    combined, tally = netcdf.load(tmp_path / "tally.nc"), netcdf.load(whole / "tally.nc")
    xr.testing.assert_equal(combined, tally)
    for attribute in ("model", "dataset", "weights_sha256", "tokens_sha256", "routing_rule"):
        assert combined.attrs[attribute] == tally.attrs[attribute]


def test_chosen_layers_are_the_same_records_as_in_a_run_of_all(pipeline):
    whole, part = pipeline("extract_routing"), pipeline("extract_routing", model={"layers": [0, "2-2"]}, place="part")
    assert sorted(path.name for path in (part / "records").glob("layer_*")) == ["layer_0.nc", "layer_2.nc"]
    for layer in (0, 2):
        one, other = (netcdf.load(out / "records" / f"layer_{layer}.nc") for out in (whole, part))
        for name in one.data_vars:
            assert one[name].values.tobytes() == other[name].values.tobytes()


def test_another_checkpoint_has_other_records_of_the_same_tokens(pipeline, other_model_folder):
    first, second = pipeline("extract_routing"), pipeline("extract_routing", folder=other_model_folder, place="other")
    one, other = (netcdf.load(out / "records" / "layer_3.nc") for out in (first, second))
    assert one.attrs["tokens_sha256"] == other.attrs["tokens_sha256"]
    assert one.attrs["weights_sha256"] != other.attrs["weights_sha256"]
    assert np.mean(one["selected_expert"].values == other["selected_expert"].values) < 0.5


def test_a_layer_out_of_range_names_the_key(pipeline):
    sentence = r"models\.tiny\.layers: layer 4 is not a Mixture-of-Experts layer; the model has \[0, 1, 2, 3\]"
    with pytest.raises(Problem, match=sentence):
        pipeline("describe_model", model={"layers": "2-4"})


def test_a_limit_of_the_dataset_and_one_of_the_model_the_smaller_counts(pipeline):
    for limits, per_model, expected in (({"tokens": 50}, 400, 50), ({"tokens": 50}, 30, 30), ({}, "all", None)):
        out = pipeline("tokenize_dataset", dataset={"limits": limits}, model={"tokens_per_dataset": per_model})
        tokens = netcdf.load(out / "tokens.nc")
        assert tokens.sizes["token"] == expected or (expected is None and tokens.sizes["document"] == len(ROWS))


def test_a_limit_of_documents_and_an_identifier_column(pipeline):
    rows = [row | {"id": f"q{number}"} for number, row in enumerate(ROWS)]
    dataset = {"id": "id", "limits": {"documents": 3}, "template": "{question}"}
    tokens = netcdf.load(pipeline("tokenize_dataset", dataset=dataset, rows=rows) / "tokens.nc")
    assert tokens["document_id"].values.tolist() == ["q0", "q1", "q2"]
    assert tokens["cluster"].values.tolist() == ["0", "1", "2"]
    assert tokens["text"].values.tolist() == [row["question"] for row in ROWS[:3]]


def test_the_tally_has_the_clusters_of_the_rows(pipeline):
    rows = [row | {"name": row["question"].split()[0]} for row in ROWS]
    limits = {"limits": {"minimum_tokens": 2, "documents": 7}}
    out = pipeline("tally_routing", dataset={"cluster": ["name"]} | limits, rows=[rows[0] | {"question": ""}, *rows])
    tally = netcdf.load(out / "tally.nc")
    assert tally["row"].values.tolist() == list(range(tally["row"].values[0], 7))
    expected = ["Janet", *(row["name"] for row in rows)]
    assert tally["cluster"].values.tolist() == [expected[row] for row in tally["row"].values]
    assert "documents in 4 clusters" in (out / "tokenize_dataset.log").read_text()


def test_the_context_of_the_model_is_the_window(pipeline):
    rows = [{"question": "how much did Omar get? " * 40, "answer": "3"}]
    tokens = netcdf.load(
        pipeline("tokenize_dataset", model={"window": "context", "tokens_per_dataset": "all"}, rows=rows) / "tokens.nc"
    )
    assert tokens.attrs["window"] == 64
    assert 32 < tokens["position"].values.max() + 1 <= 64


def test_a_failed_extraction_leaves_no_records(pipeline, monkeypatch, tmp_path):
    def broken(self, *item):
        raise OSError("the disk is gone")

    monkeypatch.setattr(RecordWriter, "_keep", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        pipeline("extract_routing")
    assert [path.name for path in tmp_path.rglob("*records*")] == []


@pytest.mark.slow
def test_rounded_logits_change_nothing_else(pipeline):
    exact = pipeline("extract_routing")
    rounded = pipeline("extract_routing", extraction={"records": "rounded"}, place="rounded")
    one, other = (netcdf.load(out / "records" / "layer_1.nc") for out in (exact, rounded))
    np.testing.assert_allclose(one["router_logits"], other["router_logits"], rtol=2.0**-10)
    assert not one["router_logits"].equals(other["router_logits"])
    for name in one.data_vars:
        assert name == "router_logits" or one[name].equals(other[name])
