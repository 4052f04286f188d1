"""Routing traces of other engines: every form gives the same records, and what is wrong is one sentence."""

import json

import numpy as np
import pytest
import torch
import trace_cases as cases
from safetensors.torch import save_file
from trace_cases import EXPERTS, LAYERS, TOP_K

from gatebook.files import netcdf
from gatebook.inputs.traces import forms
from gatebook.inputs.traces.base import Wanted, rows, taken
from gatebook.inputs.traces.checks import LAST, SHARED, UNRECORDED, ZEROS, Checks, narrowed, ordered
from gatebook.inputs.traces.tokens import SHORT, Gathered
from gatebook.problem import Problem
from gatebook.routing import traced as traced_models
from gatebook.routing.records import layer_files

WITH_SCORES = {
    "npz": cases.npz,
    "safetensors": cases.safetensors,
    "parquet": cases.parquet,
    "lists": cases.lines,
    "csv": cases.csv,
}
FORMS = WITH_SCORES | {
    "base64": lambda path, traced: cases.lines(path, traced, encoded=True),
    "prompt and answer": cases.requests,
    "recorder": cases.recorder,
}


def wanted(parts: tuple[str, ...] = (), **other) -> Wanted:
    """What is read of the traces of `cases`."""
    given = {"key": "datasets.a", "checkpoint": "v1", "layers": LAYERS, "kept": (0, 1), "experts": EXPERTS}
    return Wanted(**given | {"top_k": TOP_K, "parts": parts} | other)


def read(path, asked: Wanted, lacks=(), limits=None, tokens=None):
    """The token file, its ids and scores (token, layer, rank), and what was checked."""
    checks, gathered, masks = Checks(asked), Gathered(asked.key, lacks), []
    for number, block in forms.read([path], asked):
        sound, kept = checks.add(block, path)
        gathered.add(sound, number, kept)
        masks.append(kept)
    checks.finish()
    made = gathered.file(np.concatenate(masks), limits or {}, tokens)
    found = [
        ordered(narrowed(block, asked), "order")
        for _, block in taken(forms.read([path], asked), made["source_token"].values)
    ]
    ids, scores = zip(*found, strict=True)
    return made, np.concatenate(ids), None if scores[0] is None else np.concatenate(scores), checks


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same(form, tmp_path):
    traced = cases.made()
    path = FORMS[form](tmp_path, traced)
    scored = form in WITH_SCORES
    made, ids, scores, checks = read(path, wanted(("scores",) if scored else ()))
    np.testing.assert_array_equal(ids, traced.ids)
    if scored:
        np.testing.assert_array_equal(scores, traced.scores)
    np.testing.assert_array_equal(made["token_id"], traced.token_id)
    np.testing.assert_array_equal(made["document_index"], traced.document)
    np.testing.assert_array_equal(made["position"], traced.position)
    assert made["token_id"].dtype == made["document_index"].dtype == made["position"].dtype == np.int32
    if form != "recorder":
        assert made["cluster"].values.tolist() == ["1", "1", "2"]
    assert made["document_tokens"].values.tolist() == list(cases.LENGTHS)
    assert not checks.dropped and not checks.sorted and json.loads(made.attrs["dropped"]) == {}


def test_phases_are_kept(tmp_path):
    made, *_ = read(cases.requests(tmp_path, cases.made()), wanted())
    meanings = made["phase"].attrs["flag_meanings"].split()
    phase = np.array(meanings)[made["phase"].values]
    assert (phase == "prompt").sum() == 30 and (phase[10:40] == "generated").all()


def test_studied_layers_alone_are_read_and_a_dense_one_does_not_matter(tmp_path):
    traced = cases.made()
    traced.ids[:, 0] = 0
    path = cases.npz(tmp_path, traced)
    _, ids, *_ = read(path, wanted(kept=(1,)))
    np.testing.assert_array_equal(ids[:, 0], traced.ids[:, 1])
    with pytest.raises(Problem, match="layer 1 has the same experts for all tokens: it is dense"):
        read(path, wanted())


def test_blocks_do_not_change_what_is_read(tmp_path, monkeypatch):
    for module in ("arrays", "parquet"):
        monkeypatch.setattr(f"gatebook.inputs.traces.{module}.TOKENS_PER_BLOCK", 7)
    traced = cases.made()
    for write in (cases.npz, cases.parquet, cases.safetensors):
        made, ids, scores, _ = read(write(tmp_path, traced), wanted(("scores",)))
        np.testing.assert_array_equal(ids, traced.ids)
        np.testing.assert_array_equal(scores, traced.scores)
        assert made["document_tokens"].values.tolist() == list(cases.LENGTHS)


def test_bfloat16_of_safetensors_is_read_as_it_is(tmp_path):
    traced = cases.made()
    scores = torch.from_numpy(traced.scores).to(torch.bfloat16)
    arrays = {name: torch.from_numpy(each) for name, each in traced.arrays.items()} | {"scores": scores}
    save_file(arrays, tmp_path / "t.safetensors")
    found = next(forms.read([tmp_path / "t.safetensors"], wanted(("scores",))))[1].scores
    np.testing.assert_array_equal(found, scores.float().numpy())


def test_what_is_not_recorded_is_left_out_counted_and_begins_a_window(tmp_path):
    traced = cases.made()
    traced.ids[5, 1] = -1  # in the middle of the first document
    traced.ids[40:64, 0] = 0  # all but one token of the second
    traced.ids[70, 0, 1] = 255
    made, ids, _, checks = read(cases.npz(tmp_path, traced), wanted())
    assert checks.dropped == {UNRECORDED: 1, ZEROS: 24, SHARED: 1}
    assert json.loads(made.attrs["dropped"]) == {SHORT: 1} and made.attrs["documents_left_out"] == 1
    kept = np.r_[0:5, 6:40, 65:70, 71:100]
    np.testing.assert_array_equal(made["source_token"], kept)
    np.testing.assert_array_equal(ids, traced.ids[kept])
    assert np.flatnonzero(made["position"].values == 0).tolist() == [0, 5, 39, 44]
    assert made["row"].values.tolist() == [0, 2]


def test_limits_cut_the_last_document(tmp_path):
    path = cases.npz(tmp_path, cases.made())
    made, *_ = read(path, wanted(), tokens=50)
    assert made["document_tokens"].values.tolist() == [40, 10]
    made, *_ = read(path, wanted(), tokens=41)
    assert made["document_tokens"].values.tolist() == [40]
    made, *_ = read(path, wanted(), limits={"minimum_tokens": 30, "documents": 1})
    assert made["document_tokens"].values.tolist() == [40] and made.attrs["documents_left_out"] == 2


def test_a_last_token_without_experts_is_left_out_and_counted(tmp_path):
    traced = cases.made()
    path = tmp_path / "last.jsonl"
    request = {"token_ids": traced.token_id[:40].tolist(), "routed_experts": traced.ids[:39].tolist()}
    path.write_text(json.dumps(request) + "\n" + json.dumps({"token_ids": [1, 2], "routed_experts": None}))
    made, ids, _, checks = read(path, wanted())
    np.testing.assert_array_equal(ids, traced.ids[:39])
    assert checks.dropped == {LAST: 1, "no experts recorded (null)": 2} and made.sizes["token"] == 39
    made, ids, _, checks = read(cases.npz(tmp_path, traced, token_ids=np.append(traced.token_id, 1)), wanted())
    assert checks.dropped == {LAST: 1}
    np.testing.assert_array_equal(ids, traced.ids)


def test_scores_sort_and_ids_alone_are_in_the_order_of_numbers(tmp_path):
    traced = cases.made()
    turned = {"indices": traced.ids[..., ::-1].astype(np.int16), "scores": traced.scores[..., ::-1]}
    _, ids, scores, checks = read(cases.npz(tmp_path, traced, **turned), wanted(("scores",)))
    np.testing.assert_array_equal(ids, traced.ids)
    np.testing.assert_array_equal(scores, traced.scores)
    assert checks.sorted == 200
    block = next(forms.read([cases.npz(tmp_path, traced)], wanted()))[1]
    np.testing.assert_array_equal(ordered(rows(block, np.arange(9)), "ids")[0], np.sort(traced.ids[:9], axis=-1))


def test_without_documents_all_tokens_are_one_which_the_config_must_say(tmp_path):
    traced = cases.made()
    np.savez(tmp_path / "bare.npz", indices=traced.ids, token_ids=traced.token_id)
    made, *_ = read(tmp_path / "bare.npz", wanted(), lacks=["documents"])
    assert made["document_tokens"].values.tolist() == [100] and made["cluster"].values.tolist() == ["all"]
    with pytest.raises(Problem, match=r"datasets\.a\.lacks: its files have no document: add 'documents'"):
        read(tmp_path / "bare.npz", wanted())
    with pytest.raises(Problem, match=r"datasets\.a\.lacks: its files have a token_id: remove 'tokens'"):
        read(tmp_path / "bare.npz", wanted(), lacks=["documents", "tokens"])
    np.save(tmp_path / "ids.npy", traced.ids)
    made, ids, *_ = read(tmp_path / "ids.npy", wanted(), lacks=["documents", "tokens"])
    assert (made["token_id"] == -1).all() and (ids == traced.ids).all()


def _changed(place, value):
    def write(path, traced):
        traced.ids[place] = value
        return cases.npz(path, traced)

    return write


def _with(**other):
    return lambda path, traced: cases.npz(path, traced, **{name: make(traced) for name, make in other.items()})


def _text(name, text):
    def write(path, _):
        (path / name).write_text(text)
        return path / name

    return write


BROKEN = {
    "out of range": (_changed((7, 1, 0), 9), {}, r"token 7, layer 3: expert 9 is out of range, experts_per_layer is 8"),
    "negative": (_changed((7, 1, 0), -2), {}, r"expert -2 is out of range"),
    "twice": (_changed((7, 0), 4), {}, r"token 7, layer 1: expert 4 is there twice"),
    "constant": (_changed((slice(None), 1), [3, 5]), {}, r"layer 3 has the same experts for all tokens"),
    "nothing recorded": (_changed(slice(None), -1), {}, r"no token is left \(100 not recorded \(-1\)\)"),
    "lengths": (_with(token_ids=lambda t: t.token_id[:90]), {}, r"experts of 100 tokens and token_id of 90"),
    "shape": (_with(indices=lambda t: t.ids[:, 0]), {}, r"ids of the shape \(100, 2\), not \(token, layer, rank\)"),
    "layers": (cases.npz, {"layers": (1, 2, 3)}, r"has 2 layers, the model's trace_layers are 3 \(1-3\)"),
    "layer numbers": (
        lambda path, traced: cases.parquet(path, traced, layers=(0, 2)),
        {},
        r"has the layers 0, 2, the model's trace_layers are 1, 3",
    ),
    "checkpoint": (cases.parquet, {"checkpoint": "v2"}, r"actives has no v2, but v1: correct checkpoints"),
    "k": (cases.npz, {"top_k": 3}, r"tokens have 2 experts in a layer, experts_per_token is 3"),
    "no map": (
        lambda path, traced: cases.recorder(path, traced, physical=False),
        {},
        r"ids of physical experts without their map \(last_physical_to_logical_map\)",
    ),
    "map": (
        _with(physical_to_logical=lambda t: np.zeros((2, 3), int)),
        {},
        r"has the physical expert 7, and its map 3 of them",
    ),
    "scores": (_with(scores=lambda t: -t.scores), {"parts": ("scores",)}, r"scores that are negative or no numbers"),
    "no scores": (
        lambda path, traced: cases.lines(path, traced, encoded=True),
        {"parts": ("logits",)},
        r"has no logits \(router_logits, logits\), but token_ids",
    ),
    "interleaved": (_with(document=lambda t: t.document % 2), {}, r"document 0 goes on after another one"),
    "two clusters": (
        _with(cluster=lambda t: np.arange(100)),
        {},
        r"document 0 has tokens of two clusters",
    ),
    "objects": (_with(indices=lambda t: t.ids.astype(object)), {}, r"an array of Python objects, which is not read"),
    "named": (
        cases.npz,
        {"columns": {"ids": "chosen"}},
        r"columns.ids: 'chosen' is not in the file, which has token_ids",
    ),
    "no token column": (_text("a.csv", "layer,expert\n1,2\n"), {}, r"has no column 'token', but layer, expert"),
    "no JSON": (_text("a.jsonl", "{"), {}, r"a.jsonl line 1 is no JSON"),
    "base64": (_text("a.jsonl", '{"routed_experts": "AAAAAA=="}'), {}, r"has 1 ids in base64, not a multiple of 2"),
    "lists": (_text("a.jsonl", '{"routed_experts": [[[1, 2]], [[1]]]}'), {}, r"lists that are not all 2 layers x 2"),
    "one more": (
        _text("a.jsonl", '{"token_ids": [1, 2, 3], "routed_experts": [[[1, 2], [1, 2]]]}'),
        {},
        r"line 1 has 3 token ids and experts of 1 tokens: give as many, or one less",
    ),
    "pickle": (_text("a.pt", "no archive"), {}, r"cannot be read with weights_only"),
    "ending": (_text("a.xlsx", ""), {}, r"has the ending '.xlsx': use one of .npz"),
    "zip": (_text("a.npz", "no archive"), {}, r"a.npz cannot be read \(File is not a zip file\)"),
    "npy": (_text("a.npy", "no array"), {}, r"a.npy has no array in numpy's format"),
    "safetensors": (_text("a.safetensors", "x" * 40), {}, r"cannot be read as safetensors"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_one_sentence(name, tmp_path):
    write, other, sentence = BROKEN[name]
    path = write(tmp_path, cases.made())
    with pytest.raises(Problem, match=sentence) as found:
        read(path, wanted(**other))
    assert str(found.value).startswith("datasets.a") or str(path) in str(found.value)
    assert "\n" not in str(found.value)


MODEL = {
    "id": "some/model",
    "revision": "v1",
    "layers": "all",
    "trace_layers": ["1", 3],
    "experts_per_layer": EXPERTS,
    "experts_per_token": TOP_K,
    "trust_remote_code": False,
    "tokens_per_dataset": "all",
    "router": {"scores": "softmax", "normalised": False},
}
NAMES = {"model": "served", "checkpoint": "v1", "dataset": "a", "part": "a"}


def imported(run_script, out, path, holds, steps=("describe_traces", "read_traces", "import_traces")):
    """Run the scripts from files of traces to records."""
    tokens, description = str(out / "tokens.nc"), str(out / "model.json")
    given = {"code": "c0de", "model": MODEL | {"holds": holds}, "dataset": {"limits": {}}}
    files = {"description": description, "traces": [str(path)]}
    parts = {
        "describe_traces": ({"config": []}, {"description": description}, {}),
        "read_traces": (files | {"tokenizer": []}, {"tokens": tokens}, {"order": {"v1": [0]}}),
        "import_traces": (files | {"tokens": tokens}, {"records": out / "records"}, {"place": {}}),
    }
    for name in steps:
        input, output, params = parts[name]
        output = {key: str(value) for key, value in output.items()}
        run_script(name, out, input=input, output=output, params=given | params, wildcards=NAMES, threads=1)
    return netcdf.load(tokens), {layer: netcdf.load(file) for layer, file in layer_files(out / "records").items()}


@pytest.mark.parametrize("holds", ["ids", "order", "weights", "logits"])
def test_traces_become_the_records_of_extraction(holds, run_script, tmp_path):
    traced = cases.made()
    path = cases.npz(tmp_path, traced, router_logits=traced.logits)
    tokens, records = imported(run_script, tmp_path, path, holds)
    assert list(records) == list(LAYERS) and tokens.attrs["dropped"] == "{}"
    expected = np.sort(traced.ids, axis=-1) if holds == "ids" else traced.ids
    for place, record in enumerate(records.values()):
        np.testing.assert_array_equal(record["selected_expert"], expected[:, place])
        assert record["selected_expert"].dtype == np.uint8
        assert record.attrs["contents"] == ("exact" if holds == "logits" else holds)
        others = {"weights": {"routing_weight"}, "logits": {"router_logits"}}.get(holds, set())
        assert set(record.data_vars) == {"selected_expert"} | others
        if holds == "weights":
            np.testing.assert_array_equal(record["routing_weight"], traced.scores[:, place])
        if holds == "logits":
            np.testing.assert_array_equal(record["router_logits"], traced.logits[:, place])
        assert record.attrs["dataset"] == "a" and record.attrs["model_id"] == "some/model"


def test_logits_that_select_other_experts_are_refused(run_script, tmp_path):
    traced = cases.made()
    path = cases.npz(tmp_path, traced, router_logits=-traced.logits)
    with pytest.raises(Problem, match=r"of a token's logits .* are the largest, and the traces .* correct `router`"):
        imported(run_script, tmp_path, path, "logits")


def test_facts_of_a_model_are_those_of_its_config_with_which_keys_must_agree(model_folder):
    known = {"layers": "all", "trust_remote_code": False}
    found = traced_models.describe("models.a", known, model_folder)
    assert (found["experts"], found["top_k"], found["layers"]) == (8, 3, [0, 1, 2, 3])
    assert found["trace_layers"] == [0, 1, 2, 3] and found["rule"]["experts"] == 8
    found = traced_models.describe("models.a", known | {"trace_layers": "1-3", "layers": [3, 1]}, model_folder)
    assert found["trace_layers"] == [1, 2, 3] and found["layers"] == [1, 3]
    for other, sentence in (
        ({"experts_per_token": 2}, r"models\.a\.experts_per_token: it is 2, and .*config.json says 3: correct it"),
        ({"trace_layers": "0-5"}, r"models\.a\.trace_layers: the model of config.json has no layer 4"),
        ({"layers": 7}, r"models\.a\.layers: layer 7 is not among the layers with experts"),
    ):
        with pytest.raises(Problem, match=sentence):
            traced_models.describe("models.a", known | other, model_folder)
