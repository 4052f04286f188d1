"""Pickled weights become safetensors, without running what else a pickle may hold."""

import json
import os
import shutil

import pytest
import torch
from families import causal_model
from safetensors.torch import load_file

from gatebook.problem import Problem
from gatebook.routing import models
from gatebook.routing.convert import convert, main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model in the hub's layout, and its tensors by their names there."""
    folder = tmp_path_factory.mktemp("convert") / "saved"
    causal_model("qwen3_moe").save_pretrained(folder)
    return folder, load_file(folder / "model.safetensors")


@pytest.fixture
def pickled(saved, tmp_path):
    """Makes a folder with the config and pickled objects, by their file names."""

    def make(**files):
        folder = tmp_path / "pickled"
        folder.mkdir()
        shutil.copy(saved[0] / "config.json", folder)
        for name, content in files.items():
            torch.save(content, folder / f"{name}.bin")
        return folder

    return make


LAYOUTS = {
    "state dict": lambda tensors: tensors,
    "wrapped": lambda tensors: {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()},
    "training checkpoint": lambda tensors: {"step": 3, "optimizer": {"lr": 0.1}, "model": tensors},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_numbers_under_the_same_names(pickled, saved, layout):
    folder = pickled(pytorch_model=LAYOUTS[layout](saved[1]))
    target = convert(folder)
    assert target.name == "pickled-safetensors"
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    found = load_file(target / "model.safetensors")
    assert found.keys() == saved[1].keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved[1].items())
    assert models.describe(target, head=True)["moe_layers"] == [0, 1, 2]
    with pytest.raises(Problem, match="pickled-safetensors exists already"):
        convert(folder)


def test_shards_in_and_shards_out(pickled, saved):
    names = sorted(saved[1])
    half = {name: saved[1][name] for name in names[::2]}, {name: saved[1][name] for name in names[1::2]}
    folder = pickled(one=half[0], two=half[1])
    with pytest.raises(
        Problem, match=r"one file of pickled weights, or pytorch_model\.bin\.index\.json, but has one\.bin"
    ):
        convert(folder)
    place = {name: f"{file}.bin" for file, part in zip(("one", "two"), half, strict=True) for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": place}))
    target = convert(folder, shard_bytes=20_000)
    index = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1 and not (target / "pytorch_model.bin.index.json").exists()
    for name, file in index.items():
        assert torch.equal(load_file(target / file)[name], saved[1][name])
    models.describe(target, head=True)


class Harm:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_code_in_a_pickle_is_not_run(pickled, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Problem, match=r"pytorch_model\.bin cannot be read as tensors alone .*state_dict\(\)") as raised:
        convert(pickled(pytorch_model=saved[1] | {"harm": Harm()}))
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pickled"]


SPOILT = {
    "another shape": (lambda tensors: {"model.norm.weight": torch.ones(9)}, r"do not have the shape .*norm\.weight"),
    "another name": (lambda tensors: {"model.layers.0.mlp.gate.wait": torch.ones(2)}, r"first \S+gate\.wait: use"),
    "no tensors": (lambda tensors: None, r"holds no state_dict of tensors"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_does_not_fit_the_config_is_not_written(pickled, saved, case):
    change, sentence = SPOILT[case]
    changed = change(saved[1])
    folder = pickled(pytorch_model=[1, 2] if changed is None else saved[1] | changed)
    with pytest.raises(Problem, match=sentence):
        convert(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["pickled"]


def test_the_command_line(pickled, saved, monkeypatch, capsys):
    folder = pickled(pytorch_model=saved[1])
    monkeypatch.setattr("sys.argv", ["convert", str(folder)])
    main()
    assert capsys.readouterr().out == f"Weights in safetensors: {folder}-safetensors\n"
    with pytest.raises(SystemExit, match=r"Error: .*exists already"):
        main()
    monkeypatch.setattr("sys.argv", ["convert", ""])
    with pytest.raises(SystemExit, match="Error: no folder is given: make convert FOLDER="):
        main()
