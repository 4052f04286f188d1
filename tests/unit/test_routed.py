"""Tokens of a study and its layers are read in the order of the datasets, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from routing_cases import completed, random_case
from vocabulary_cases import vocabulary_case, written

from gatebook.files import netcdf
from gatebook.problem import Problem
from gatebook.study import routed

LENGTHS = {"poems": [4, 9, 3], "code": [6, 2]}


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(1)
    return {name: vocabulary_case(rng, lengths, 1.0) for name, lengths in LENGTHS.items()}


@pytest.fixture(scope="module")
def predicted(made):
    rng = np.random.default_rng(2)
    return {name: rng.integers(0, 12, len(one.token_id)) for name, one in made.items()}


def test_the_next_token_is_the_one_that_follows_in_the_same_window():
    token_id, position = np.array([7, 8, 9, 5, 6, 4]), np.array([0, 1, 2, 0, 1, 0])
    assert routed.next_token(token_id, position).tolist() == [8, 9, -1, 6, -1, -1]


def test_a_study_is_read_dataset_after_dataset(made, predicted, tmp_path):
    found = routed.read(**written(made, tmp_path, predicted))
    assert found["kind"].values.tolist() == ["input", "next", "predicted"]
    assert found["name"].values.tolist() == ["poems", "code"] and found["layer"].values.tolist() == [0, 2]
    assert found["documents"].values.tolist() == [3, 2]
    assert found["dataset"].values.tolist() == [0] * 16 + [1] * 8
    for kind, ids in (
        ("input", [one.token_id for one in made.values()]),
        ("next", [routed.next_token(one.token_id, one.tokens["position"].values) for one in made.values()]),
        ("predicted", list(predicted.values())),
    ):
        np.testing.assert_array_equal(found["token_id"].sel(kind=kind), np.concatenate(ids))
    np.testing.assert_array_equal(found["group"], np.concatenate([one.group for one in made.values()]))
    assert len(np.unique(found["cluster"])) == 5  # every document of each dataset
    assert found["start"].values.tolist() == [0, 4, 13, 16, 22]
    assert found["document_id"].values.tolist() == [name for one in made.values() for name in one.document_id]
    assert found.attrs["datasets"] == '{"poems": "sum of poems", "code": "sum of code"}'


def test_tokens_are_read_without_records(made, tmp_path):
    paths = written(made, tmp_path)
    alone, whole = routed.read_tokens(paths["tokens"]), routed.read(**paths)
    xr.testing.assert_equal(alone, whole.drop_vars("layer"))
    assert alone["dataset_sha256"].values.tolist() == ["files of poems", "files of code"]


def test_selections_are_read_layer_by_layer_if_they_are_of_the_tokens_that_count(tmp_path):
    place, selected = np.array([1, 4, 5]), np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    saved = xr.Dataset(
        {"selected_expert": (("layer", "token", "rank"), selected)},
        coords={"layer": [0, 3], "token": place},
        attrs={"experts": 16},
    )
    netcdf.save(saved, tmp_path / "step5.nc")
    found = list(routed.read_selected(str(tmp_path / "step5.nc"), place))
    assert [(layer.number, layer.experts) for layer in found] == [(0, 16), (3, 16)]
    np.testing.assert_array_equal([layer.selected for layer in found], selected)
    with pytest.raises(
        Problem, match=r"step5\.nc is of other tokens than this study counts: delete it and run the wor"
    ):
        next(routed.read_selected(str(tmp_path / "step5.nc"), place + 1))


def test_datasets_of_the_same_files_share_the_numbers_of_their_clusters(tmp_path):
    rng, clusters = np.random.default_rng(1), {"one": list("abab"), "pair": list("cb"), "other": list("ab")}
    made = {name: random_case(rng, [2] * len(each), cluster=each) for name, each in clusters.items()}
    paths = written(made, tmp_path)
    pair = netcdf.load(paths["tokens"][1])
    netcdf.save(pair.assign_attrs(dataset_sha256="files of one"), Path(paths["tokens"][1]))
    found = routed.read(**paths)["cluster"].values
    one, pair, other = found[:4], found[4:6], found[6:]
    assert one[0] == one[2] != one[1] == one[3] == pair[1]
    assert len({*one, *pair, *other}) == 5


def test_predictions_of_some_datasets_only_are_left_out(made, predicted, tmp_path):
    paths = written(made, tmp_path, predicted)
    (tmp_path / "code" / "predictions.nc").unlink()
    assert routed.read(**paths)["kind"].values.tolist() == ["input", "next"]


@pytest.mark.parametrize("block", [5, 1000])
@pytest.mark.parametrize(
    "wanted",
    [(), ("routing_weight",), ("routing_weight", "entropy"), ("entropy",), ("router_logits",), ("boundary_margin",)],
)
def test_layers_are_read_dataset_after_dataset(made, tmp_path, monkeypatch, wanted, block):
    monkeypatch.setattr(routed, "TOKENS_PER_BLOCK", block)
    paths = written(made, tmp_path)
    layers = list(routed.read_layers(routed.read(**paths), paths["records"], *wanted))
    assert [layer.number for layer in layers] == [0, 2]
    for layer in layers:
        whole = [completed(one.layers[layer.number]) for one in made.values()]
        expected = {
            name: np.concatenate([one[name].values for one in whole])
            for name in ("selected_expert", "routing_weight", "entropy", "router_logits", "boundary_margin")
        }
        np.testing.assert_array_equal(layer.selected, expected["selected_expert"])
        assert layer.experts == 6 and layer.selected.dtype == np.uint8
        names = {"routing_weight": layer.weight, "entropy": layer.entropy, "router_logits": layer.logits}
        names["boundary_margin"] = layer.margin
        for name, found in names.items():
            if name in wanted:
                np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6)
            else:
                assert found is None


def test_compact_records_say_the_same_but_for_rounding(made, tmp_path):
    paths = [written(study, tmp_path / kind) for kind, study in (
        ("exact", made), ("compact", {name: one.compact() for name, one in made.items()}),
    )]  # fmt: skip
    read = [list(routed.read_layers(routed.read(**one), one["records"], "routing_weight", "entropy")) for one in paths]
    for exact, compact in zip(*read, strict=True):
        np.testing.assert_array_equal(exact.selected, compact.selected)
        np.testing.assert_allclose(exact.weight, compact.weight, rtol=2**-7)
        np.testing.assert_allclose(exact.entropy, compact.entropy, rtol=2**-7)
    assert [routed.hold_logits(one["records"]) for one in paths] == [True, False]
    assert all(hold(one["records"]) for one in paths for hold in (routed.hold_weights, routed.hold_margins))
    assert not routed.hold_logits([*paths[0]["records"], *paths[1]["records"]])


@pytest.mark.parametrize("tokens", [15, 17])
def test_records_of_other_tokens_are_refused(made, tmp_path, tokens):
    paths = written(made, tmp_path)
    study = routed.read(**paths)
    path = Path(paths["records"][0], "layer_2.nc")
    netcdf.save(netcdf.load(path).isel(token=np.arange(tokens) % 16), path)
    layers = routed.read_layers(study, paths["records"])
    assert next(layers).number == 0
    with pytest.raises(Problem, match="the records of layer 2 and the token files have different numbers of tokens"):
        next(layers)
