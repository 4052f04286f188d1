"""Files are whole or not there, the same bytes for the same data, and one sentence when they cannot be."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from gatebook.files import atomic, checksums, netcdf, tables
from gatebook.files.origin import identity
from gatebook.inputs.documents import load_tokens
from gatebook.problem import Problem
from gatebook.report.manifest import summary
from gatebook.run import job
from gatebook.study.tallies import open_tallies

SCRIPTS = Path(__file__).parents[2] / "scripts"


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


# ---------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("before", [None, "an older result"])
def test_an_error_in_the_body_leaves_what_was_there(tmp_path, before):
    target = tmp_path / "deep" / "a.txt"
    if before:
        target.parent.mkdir()
        target.write_text(before)
    with pytest.raises(KeyError, match="body"), atomic.atomic_file(target) as path:
        path.write_text("half")
        raise KeyError("body")
    assert names(target.parent) == (["a.txt"] if before else [])
    assert not before or target.read_text() == before


def test_a_folder_appears_whole_replaces_an_older_one_and_survives_a_failed_rewrite(tmp_path):
    target = tmp_path / "records"
    for content in ("old", "new"):
        with atomic.atomic_directory(target) as folder:
            (folder / content).write_text(content)
            assert content == "old" or names(target) == ["old"]
    assert names(target) == ["new"]
    with pytest.raises(KeyError, match="body"), atomic.atomic_directory(target) as folder:
        (folder / "half").write_text("half")
        raise KeyError("body")
    assert names(tmp_path) == ["records"]
    assert names(target) == ["new"]


def test_the_partial_file_lies_beside_the_final_one_which_is_untouched_until_the_end(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic.atomic_file(target) as path:
        path.write_text("new")
        assert path.parent == target.parent
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_leftovers_of_a_killed_job_are_removed(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from gatebook.files import atomic\n"
        "contexts = []\n"
        "for make, name in ((atomic.atomic_file, 'a.nc'), (atomic.atomic_directory, 'records')):\n"
        "    context = make(os.path.join(sys.argv[2], name)); path = context.__enter__(); contexts.append(context)\n"
        "    path.write_text('half') if name == 'a.nc' else (path / 'layer_0.nc').write_text('half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(SCRIPTS), str(tmp_path)], check=False)
    assert len(names(tmp_path)) == 2
    with atomic.atomic_file(tmp_path / "a.nc") as path:
        path.write_text("whole")
    with atomic.atomic_directory(tmp_path / "records"):
        pass
    assert names(tmp_path) == ["a.nc", "records"]


def test_a_job_at_work_on_a_name_that_starts_alike_is_left_alone(tmp_path):
    with (
        atomic.atomic_directory(tmp_path / "gsm8k.question_only") as first,
        atomic.atomic_directory(tmp_path / "gsm8k") as second,
        atomic.atomic_directory(tmp_path / "gsm8k.nc") as third,
    ):
        assert all(folder.is_dir() for folder in (first, second, third))
    assert names(tmp_path) == ["gsm8k", "gsm8k.nc", "gsm8k.question_only"]


# ---------------------------------------------------------------- disks that do not take it


FULL_DISK = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, pandas as pd, xarray as xr
from gatebook.files import atomic, netcdf, tables
from gatebook.problem import Problem
from gatebook.routing.records import Records, RecordWriter
from gatebook.routing.rule import RoutingRule
target, what = sys.argv[2], sys.argv[3]
rng = np.random.default_rng(0)
try:
    if what == "netcdf":
        netcdf.save(xr.Dataset({"x": ("a", rng.normal(size=400_000))}), target)
    elif what == "parts":
        parts = (xr.Dataset({"x": ("a", rng.normal(size=60_000))}) for _ in range(8))
        netcdf.save_parts(parts, target, along="a")
    elif what == "table":
        tables.save_table(pd.DataFrame({"x": rng.normal(size=400_000)}), target)
    else:
        logits = rng.normal(size=(4096, 64)).astype("f4")
        record = Records({"router_logits": logits, "selected_expert": logits[:, :2].astype("u1")}, {})
        rule = RoutingRule("olmoe", experts=64, top_k=2, normalised=False)
        sizes = {"tokens": 40960, "windows": 10}
        with (
            atomic.atomic_directory(target) as folder,
            RecordWriter(folder, rule, [0], **sizes, contents="exact", attrs={}) as writer,
        ):
            for _ in range(10):
                writer.write([(0, record)])
except Problem as problem:
    print(problem)
"""


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("what", "name"), [("netcdf", "a.nc"), ("parts", "a.nc"), ("table", "a.csv"), ("records", "records")]
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(small_disk, what, name):
    command = [sys.executable, "-c", FULL_DISK, str(SCRIPTS), str(small_disk / name), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sentence = done.stdout.strip()
    assert sentence.startswith(f"{small_disk / name} cannot be written (")
    assert sentence.endswith("0.0 GB free on that disk): make room or make it writable, then run again.")
    assert "\n" not in sentence
    assert names(small_disk) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_an_error_of_the_disk_in_the_body_is_one_sentence(tmp_path, code):
    with pytest.raises(Problem, match=r"a\.txt cannot be written .*GB free on that disk.*: make room"):  # noqa: SIM117
        with atomic.atomic_file(tmp_path / "a.txt") as path:
            path.write_text("half")
            raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_another_error_of_the_body_is_not_blamed_on_the_disk(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "no such input"), RuntimeError("shape mismatch")):
        with pytest.raises(type(error)), atomic.atomic_file(tmp_path / "a.txt"):
            raise error


def test_a_place_that_is_no_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("I am a file")
    (tmp_path / "folder").mkdir()
    for target in ("file/a.nc", "file/deep/a.nc", "folder"):
        with pytest.raises(Problem, match=f"{target} cannot be written"):
            netcdf.save(some_data(), tmp_path / target)
    assert names(tmp_path) == ["file", "folder"]


def test_a_read_only_disk_is_one_sentence(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for target in ("a.csv", "deep/a.csv"):
        with pytest.raises(Problem, match=f"{target} cannot be written .*Read-only file system"):
            tables.save_table(pd.DataFrame({"x": [1]}), small_disk / target)


# ---------------------------------------------------------------- netCDF


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
    monkeypatch.setattr(job, "_provenance", {"rule": "measure", "settings": {"b": 1, "a": {"x": [1, 2]}}, "code": "12"})
    netcdf.save(some_data(), tmp_path / "a.nc")
    attributes = netcdf.load(tmp_path / "a.nc").attrs
    assert json.loads(attributes["provenance"]) == job.provenance()
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


# ---------------------------------------------------------------- checksums


def test_checksum_of_files_is_that_of_their_contents_in_order(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"ab")
    two.write_bytes(b"c")
    assert checksums.sha256(one, two) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"
    assert checksums.sha256(two, one) != checksums.sha256(one, two)


def test_checksum_of_arrays_depends_on_dtype_shape_contents_and_order():
    base = np.arange(6, dtype=np.int32)
    variants = [
        (base,),
        (base.astype(np.int64),),
        (base.view(np.float32),),
        (base.reshape(2, 3),),
        (base.reshape(3, 2),),
        (base[::-1],),
        (base[:3], base[3:]),
        (base[3:], base[:3]),
    ]
    assert len({checksums.array_sha256(*arrays) for arrays in variants}) == len(variants)
    assert checksums.array_sha256(base.reshape(2, 3).T) == checksums.array_sha256(base.reshape(2, 3).T.copy())


def test_identity_hands_on_what_says_which_model_and_data():
    attributes = {"model": "m", "tokens_sha256": "12", "provenance": "{}", "window": 128}
    assert identity(attributes) == {"model": "m", "tokens_sha256": "12"}


def test_a_folder_is_one_line_of_the_manifest(tmp_path):
    folder = tmp_path / "experts" / "demo"
    folder.mkdir(parents=True)
    (folder / "b.json").write_text("bb")
    (folder / "a.json").write_text("a")
    whole = hashlib.sha256(b"abb").hexdigest()
    assert summary(folder, tmp_path) == {"path": "experts/demo/ (2 files)", "sha256": whole, "bytes": 3}
