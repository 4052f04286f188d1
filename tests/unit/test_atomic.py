"""Files are whole or not there, the same bytes for the same data, and one sentence when they cannot be."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from gatebook.files import atomic, netcdf, tables
from gatebook.problem import Problem

SCRIPTS = Path(__file__).parents[2] / "scripts"


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
import tempfile
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
        values = {"router_logits": logits[None], "selected_expert": logits[None, :, :2].astype("u1")}
        rule = RoutingRule("olmoe", experts=64, top_k=2, normalised=False)
        sizes = {"tokens": 40960, "windows": 10}
        with (
            atomic.atomic_directory(target) as folder,
            RecordWriter(folder, rule, [0], **sizes, contents="exact", attrs={}) as writer,
        ):
            for first in range(0, 40960, 4096):
                record = Records(np.arange(first, first + 4096), np.array([first // 4096]), values, {})
                writer.write(lambda record=record: record)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "name"), [("netcdf", "a.nc"), ("parts", "a.nc"), ("table", "a.csv"), ("records", "records")]
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(small_disk, what, name):
    command = [sys.executable, "-c", FULL_DISK, str(SCRIPTS), str(small_disk / name), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sentence = done.stdout.strip()
    assert sentence.startswith(f"{small_disk / name} cannot be written (")
    assert re.search(r"; \S+ k?M?B free on that disk\): make room or make it writable, then run again\.$", sentence)
    assert "\n" not in sentence
    assert names(small_disk) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_an_error_of_the_disk_in_the_body_is_one_sentence(tmp_path, code):
    with pytest.raises(Problem, match=r"a\.txt cannot be written .*B free on that disk.*: make room"):  # noqa: SIM117
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
            netcdf.save(xr.Dataset({"x": ("a", [1.0])}), tmp_path / target)
    assert names(tmp_path) == ["file", "folder"]


def test_a_read_only_disk_is_one_sentence(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for target in ("a.csv", "deep/a.csv"):
        with pytest.raises(Problem, match=f"{target} cannot be written .*Read-only file system"):
            tables.save_table(pd.DataFrame({"x": [1]}), small_disk / target)
