"""The routing of a list of texts is what extraction records of them, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import causal_model

import gatebook
from gatebook.files import netcdf
from gatebook.problem import Problem
from gatebook.routing import rule
from gatebook.routing.following import complete

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXTS = [f"{name} sold {number} eggs for 2 dollars; how much?" for number, name in enumerate(["Janet", "Łucja"] * 9)]
LAYERS = (0, 1, 2, 3)
LOADING = {"dtype": "auto", "attention": "auto", "experts": "auto", "gpus": 1, "trust_remote_code": False}


@pytest.fixture
def extracted(run_script, model_folder, tmp_path):
    """The records that the workflow's scripts make of `TEXTS`, in windows of 16 tokens."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    files = [str(tmp_path / "rows.jsonl")]
    tokens, description, folder = (str(tmp_path / name) for name in ("tokens.nc", "model.json", "records"))
    wildcards = {"model": "tiny", "checkpoint": "final", "dataset": "texts", "part": "texts"}
    dataset = {"source": "files", "files": files, "template": "{text}", "sample_by": "line", "limits": {}} | {
        "cluster": []
    }
    model = LOADING | {"layers": "all", "device": "cpu", "window": 16, "tokens_per_dataset": "all", "path": "tiny"}
    extraction = {"records": "exact", "predictions": True, "sample": {"size": 0, "seed": 0}, "threads": 1}
    extraction["tokens_per_batch"] = {"cpu": 4096}
    for name, input, output, params in (
        ("tokenize_dataset", {"tokenizer": model_folder, "files": files}, {"tokens": tokens}, {"dataset": dataset}),
        ("describe_model", {"folder": model_folder}, {"description": description}, {"predictions": True}),
        (
            "extract_routing",
            {"folder": model_folder, "description": description, "tokens": tokens},
            {"records": folder},
            {"extraction": extraction, "place": {"shard": 1, "shards": 1}},
        ),
    ):
        params = {"code": "c0de", "model": model} | params
        run_script(name, tmp_path, input=input, output=output, params=params, wildcards=wildcards)
    return Path(folder)


def test_the_same_bits_as_in_the_records_of_a_study(extracted, model_folder):
    routing = gatebook.route(model_folder, TEXTS, window=16)
    assert routing["layer"].values.tolist() == list(LAYERS)
    tokens = netcdf.load(extracted.parent / "tokens.nc")
    for name in ("token_id", "position", "document_index"):
        np.testing.assert_array_equal(routing[name], tokens[name])
        assert routing[name].dtype == np.int32
    for layer in LAYERS:
        record = netcdf.load(extracted / f"layer_{layer}.nc")
        one = routing.sel(layer=layer)
        for name, array in record.items():
            assert one[name].dims == array.dims and one[name].dtype == array.dtype
            assert one[name].values.tobytes() == array.values.tobytes(), (layer, name)
            assert one[name].attrs["long_name"] == array.attrs["long_name"]
        whole = complete({name: array.values for name, array in record.items()}, rule.routing_rule_of(record.attrs))
        assert one["routing_weight"].values.tobytes() == whole["routing_weight"].tobytes()
        assert routing.attrs["routing_rule"] == record.attrs["routing_rule"]


def test_tokens_are_those_of_the_texts(model_folder, tokenizer):
    routing = gatebook.route(model_folder, TEXTS)
    assert routing["text"].values.tolist() == TEXTS
    for number in (0, 1, len(TEXTS) - 1):
        here = routing.isel(token=routing["document_index"] == number)
        assert here["token_id"].values.tolist() == tokenizer(TEXTS[number])["input_ids"]
        assert here["position"].values.tolist() == list(range(here.sizes["token"]))
    assert "".join(routing["token_text"].values[routing["document_index"] == 0]) == TEXTS[0]
    assert dict(routing.sizes) == {"layer": 4, "token": routing.sizes["token"], "expert": 8, "rank": 3, "document": 18}
    assert routing["routing_weight"].dtype == np.float32 and routing["selected_expert"].dtype == np.uint8


@pytest.mark.slow
def test_chosen_layers_are_those_of_all_and_threads_are_put_back(model_folder):
    before = torch.get_num_threads()
    whole, part = gatebook.route(model_folder, TEXTS), gatebook.route(model_folder, TEXTS, layers=[0, "2"], threads=2)
    assert torch.get_num_threads() == before
    assert part["layer"].values.tolist() == [0, 2]
    np.testing.assert_array_equal(part["selected_expert"], whole["selected_expert"].sel(layer=[0, 2]))
    np.testing.assert_allclose(part["router_logits"], whole["router_logits"].sel(layer=[0, 2]), atol=1e-5)


def test_a_family_with_a_selection_bias_and_a_dense_layer(tokenizer, tmp_path):
    model = causal_model("deepseek_v3", vocab_size=len(tokenizer), eos_token_id=0, bos_token_id=None)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    routing = gatebook.route(tmp_path, TEXTS[:3], dtype="float32")
    assert routing["layer"].values.tolist() == [1, 2] and routing["selection_bias"].dims == ("layer", "expert")
    follows = rule.routing_rule_of(routing.attrs)
    assert json.loads(routing.attrs["routing_rule"])["dense_layers"] == [0]
    for layer in (1, 2):
        one = routing.sel(layer=layer)
        biases = torch.from_numpy(one["selection_bias"].values)
        logits = torch.from_numpy(one["router_logits"].values)
        selected = follows.select(logits, biases)
        weights = follows.weights(logits, selected)
        order = weights.argsort(dim=-1, descending=True, stable=True)
        np.testing.assert_array_equal(one["selected_expert"], selected.gather(-1, order))
        np.testing.assert_allclose(one["routing_weight"], weights.gather(-1, order), rtol=1e-6)


WRONG = {
    "one text": ("text", {}, "texts: a list of at least one text is needed"),
    "no text": ([], {}, "texts: a list of at least one text is needed"),
    "an empty text": (["a b", ""], {}, r"texts\[1\] has no token: leave it out"),
    "a layer that is not there": (TEXTS, {"layers": "2-4"}, r"layers: layer 4 is not .* the model has \[0, 1, 2, 3\]"),
    "a window beyond the context": (TEXTS, {"window": 65}, "window: 65 tokens are more than the model's context of 64"),
    "no such device": (TEXTS, {"device": "cuda:99"}, "device: cuda:99 is set, but"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(model_folder, case):
    texts, options, sentence = WRONG[case]
    with pytest.raises(Problem, match=sentence):
        gatebook.route(model_folder, texts, **options)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(Problem, match=r"is not a model folder: it has no config\.json"):
        gatebook.route(tmp_path, TEXTS)


def test_the_package_itself_imports_nothing_heavy():
    line = "import sys, gatebook; gatebook.__version__; print('route' in dir(gatebook), sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", line], env={"PYTHONPATH": str(SCRIPTS)}, capture_output=True, text=True
    )
    assert done.stdout.startswith("True ")
    assert not any(f"'{name}'" in done.stdout for name in ("numpy", "torch", "xarray", "gatebook.routing"))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gatebook.nothing  # noqa: B018
