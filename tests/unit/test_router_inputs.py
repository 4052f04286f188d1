"""Maps of router inputs for the expert browser: the tokens of a whole study with the highest weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from gatebook.atlas import router_inputs
from gatebook.files import netcdf
from gatebook.files.data_scripts import DataScripts

LAYERS, EXPERTS, HIDDEN, MOST, SAMPLED = [1, 4], 3, 6, 2, 30
PARTS = {"code.shard_1_of_2": 0, "code.shard_2_of_2": 50, "poems": 0}


@pytest.fixture
def records(tmp_path):
    """Two shards of a dataset and another dataset; the last expert has one token in all."""
    rng = np.random.default_rng(0)
    dims = ("layer", "expert", "highest")
    for name, first in PARTS.items():
        weight = -np.sort(-rng.random((len(LAYERS), EXPERTS, MOST)).astype(np.float32), axis=-1)
        token = first + rng.permuted(np.tile(np.arange(40), (len(LAYERS), EXPERTS, 1)), axis=-1)[..., :MOST]
        state = rng.normal(size=(*weight.shape, HIDDEN)).astype(np.float32)
        for there in (weight, state):
            there[:, -1, 0 if name != "poems" else 1 :] = np.nan
        token[np.isnan(weight)] = -1
        found = {"token": (dims, token), "weight": (dims, weight), "state": ((*dims, "hidden"), state)}
        (tmp_path / name).mkdir()
        attrs = {"dataset": name.split(".")[0]}
        netcdf.save(xr.Dataset(found, {"layer": LAYERS}, attrs), tmp_path / name / "highest.nc")
        sample = {"state": (("layer", "sample", "hidden"), rng.normal(size=(len(LAYERS), SAMPLED, HIDDEN)))}
        netcdf.save(xr.Dataset(sample, {"layer": LAYERS}, attrs), tmp_path / name / "states.nc")
    return [str(tmp_path / name) for name in PARTS]


TOKENS = SimpleNamespace(input=np.arange(140) % 7, start=np.array([0, 100]))


def test_the_highest_of_all_parts_are_kept_in_order(records):
    layer = LAYERS[1]
    dataset, place, weight, state = router_inputs.highest(records, layer)
    files = [netcdf.load(f"{folder}/highest.nc").sel(layer=layer) for folder in records]
    for expert in range(EXPERTS):
        all_of = [
            (float(file["weight"][expert, one]), number // 2, int(file["token"][expert, one]), number, one)
            for number, file in enumerate(files)
            for one in range(MOST)
        ]
        expected = sorted((each for each in all_of if each[0] == each[0]), reverse=True)[:MOST]
        known = place[expert] >= 0
        assert known.sum() == len(expected) == (1 if expert == EXPERTS - 1 else MOST)
        assert list(zip(weight[expert][known], dataset[expert][known], place[expert][known], strict=True)) == [
            each[:3] for each in expected
        ]
        for row, (*_, number, one) in zip(state[expert][known], expected, strict=True):
            np.testing.assert_array_equal(row, files[number]["state"][expert, one])


def test_a_map_has_the_axes_on_which_random_inputs_differ_most(records):
    layer = LAYERS[0]
    found = router_inputs.content(TOKENS, records, layer)
    whole = np.concatenate([netcdf.load(f"{folder}/states.nc")["state"].sel(layer=layer) for folder in records])
    centred = whole - whole.mean(axis=0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    assert found["variance"] == pytest.approx((size[:2] ** 2).sum() / (size**2).sum(), rel=1e-3)
    positions = np.array(found["random"])[:, 1:]
    np.testing.assert_allclose(np.abs(positions), np.abs(centred @ axes[:2].T), rtol=2e-3, atol=1e-3)
    assert [one[0] for one in found["random"]] == [0] * 2 * SAMPLED + [1] * SAMPLED
    dataset, place, weight, state = router_inputs.highest(records, layer)
    for expert, lines in enumerate(found["experts"]):
        for line, of, at, its, row in zip(
            lines, dataset[expert], place[expert], weight[expert], state[expert], strict=False
        ):
            assert line[:3] == [of, at, (TOKENS.start[of] + at) % 7] and line[3] == pytest.approx(its, rel=1e-3)
            there = np.abs((row - whole.mean(axis=0)) @ axes[:2].T)
            np.testing.assert_allclose(np.abs(line[4:]), there, rtol=2e-3, atol=1e-3)


def test_without_one_of_the_files_there_are_no_maps(records, tmp_path):
    for missing in ("", "highest.nc", "states.nc"):
        scripts = DataScripts()
        scripts.add("index", {"layers": LAYERS})
        if missing:
            path = tmp_path / "poems" / missing
            kept, _ = path.read_bytes(), path.unlink()
        router_inputs.add(scripts, TOKENS, records, LAYERS)
        assert scripts.content("index") == {"layers": LAYERS, "inputs": not missing}
        assert ("inputs/1" in list(scripts)) == (not missing)
        if missing:
            path.write_bytes(kept)
