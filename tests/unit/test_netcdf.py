"""NetCDF files hold what was saved, in the same bytes, signed with what made it, and several are read as one."""

import json
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from gatebook.files import netcdf, origin
from gatebook.inputs.documents import load_tokens
from gatebook.problem import Problem
from gatebook.study.tallies import open_tallies


def some_data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "share": (("layer", "expert"), rng.random((3, 200)), {"units": "1", "long_name": "share"}),
            "count": ("layer", np.array([1, 2, 3], dtype=np.int32)),
            "known": ("layer", np.array([True, False, True])),
            "text": ("document", np.array(["naïve 🐍 漢字", "", "two\nlines"], dtype=object)),
        },
        coords={"layer": [0, 5, 7]},
        attrs={"model": "tiny", "empty": ""},
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_loaded_is_what_was_saved(tmp_path):
    netcdf.save(some_data(), tmp_path / "a.nc")
    loaded = netcdf.load(tmp_path / "a.nc")
    xr.testing.assert_equal(loaded, some_data())
    for name, array in some_data().variables.items():
        assert loaded[name].dtype == array.dtype or name == "text"
        assert "_FillValue" not in loaded[name].encoding
    assert loaded["share"].attrs == {"units": "1", "long_name": "share"}


def test_tokens_are_loaded_without_the_texts(tmp_path):
    netcdf.save(some_data(), tmp_path / "a.nc")
    xr.testing.assert_equal(load_tokens(tmp_path / "a.nc"), some_data().drop_vars("text"))


def test_two_saves_are_identical_bytes_also_over_an_older_file(tmp_path):
    netcdf.save(some_data(), tmp_path / "a.nc")
    netcdf.save(some_data() * 2, tmp_path / "b.nc")
    netcdf.save(some_data(), tmp_path / "b.nc")
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def parts_of(data: xr.Dataset) -> list[xr.Dataset]:
    """The same data, one layer after another."""
    return [data.isel(layer=[index]) for index in range(data.sizes["layer"])]


def test_parts_make_the_file_of_the_whole(tmp_path):
    whole = some_data()
    netcdf.save_parts(iter(parts_of(whole)), tmp_path / "parts.nc", along="layer")
    netcdf.save(whole, tmp_path / "whole.nc")
    found, expected = netcdf.load(tmp_path / "parts.nc"), netcdf.load(tmp_path / "whole.nc")
    xr.testing.assert_identical(found, expected)
    assert {name: array.dtype for name, array in found.items()} == {
        name: array.dtype for name, array in expected.items()
    }
    with netcdf.open_lazily(tmp_path / "parts.nc") as read:
        assert read["share"].encoding["chunksizes"] == (1, 200)


def test_parts_may_have_different_lengths(tmp_path):
    parts = [
        xr.Dataset({"a": (("x", "t"), np.full((2, n), n)), "b": ("t", np.arange(n)), "c": ("x", [1.5, 2.5])})
        for n in (3, 1, 40_000)
    ]
    netcdf.save_parts(parts, tmp_path / "parts.nc", along="t")
    found = netcdf.load(tmp_path / "parts.nc")
    np.testing.assert_array_equal(found["a"], np.tile([3] * 3 + [1] + [40_000] * 40_000, (2, 1)))
    np.testing.assert_array_equal(found["b"], [*range(3), 0, *range(40_000)])
    np.testing.assert_array_equal(found["c"], [1.5, 2.5])


def test_the_same_parts_give_the_same_bytes(tmp_path):
    for name in ("a.nc", "b.nc"):
        netcdf.save_parts(parts_of(some_data()), tmp_path / name, along="layer")
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_an_error_while_parts_are_made_leaves_nothing(tmp_path):
    def parts():
        yield parts_of(some_data())[0]
        raise KeyError("part")

    with pytest.raises(KeyError, match="part"):
        netcdf.save_parts(parts(), tmp_path / "a.nc", along="layer")
    assert names(tmp_path) == []


def test_tallies_are_opened_by_the_name_of_their_dataset_in_order(tmp_path):
    paths = [tmp_path / f"{name}.nc" for name in ("poems", "code")]
    for path in paths:
        netcdf.save(some_data().assign_attrs(dataset=path.stem), path)
    with open_tallies(paths) as found:
        assert list(found) == ["poems", "code"]
        xr.testing.assert_equal(found["code"].load(), some_data())


def test_opening_a_file_leaves_the_cache_of_other_files_alone(tmp_path):
    before = netCDF4.get_chunk_cache()
    netcdf.save(some_data(), tmp_path / "a.nc")
    with netcdf.open_lazily(tmp_path / "a.nc", cached_bytes=12345) as read:
        assert netCDF4.get_chunk_cache() == before
        assert read["share"].shape == (3, 200)
    with pytest.raises(Problem):
        netcdf.open_lazily(tmp_path / "missing.nc", cached_bytes=12345)
    assert netCDF4.get_chunk_cache() == before


def test_files_carry_the_provenance_of_the_running_job(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "_running", {"rule": "measure", "settings": {"b": 1, "a": {"x": [1, 2]}}, "code": "12"})
    netcdf.save(some_data(), tmp_path / "a.nc")
    attributes = netcdf.load(tmp_path / "a.nc").attrs
    assert json.loads(attributes["provenance"]) == origin.provenance()
    assert attributes["provenance"].index('"a"') < attributes["provenance"].index('"b"')
    assert (attributes["Conventions"], attributes["model"]) == ("CF-1.11", "tiny")


def test_a_missing_and_a_spoiled_file_are_one_sentence(tmp_path):
    path = tmp_path / "a.nc"
    with pytest.raises(Problem, match=r"a\.nc does not exist: run the workflow again"):
        netcdf.load(path)
    netcdf.save(some_data(), path)
    whole = path.read_bytes()
    for content in (b"", b"no netCDF at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(Problem, match=r"a\.nc is not a readable netCDF file .*delete it and run again") as raised:
            netcdf.load(path)
        assert "\n" not in str(raised.value)


def test_identity_hands_on_what_says_which_model_and_data():
    attributes = {"model": "m", "tokens_sha256": "12", "provenance": "{}", "window": 128}
    assert origin.identity(attributes) == {"model": "m", "tokens_sha256": "12"}
