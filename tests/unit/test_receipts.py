"""Receipts tell apart what a job wrote and what was changed since."""

import json
import os
from pathlib import Path

import pytest

from gatebook.run import receipts

PROVENANCE = {"rule": "measure", "wildcards": {"model": "tiny"}, "settings": {}, "code": "0" * 16, "software": {}}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A results folder with four files of one job and its receipt; returns what its receipt says."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/figures/tiny")
    folder.mkdir(parents=True)
    for name in ("a.nc", "b.csv", "c.svg", "d.json"):
        (folder / name).write_text(f"{name} " * 100)
    (folder / ".snakemake_timestamp").touch()
    Path("results/logs").mkdir()
    Path("results/logs/measure.log").write_text("a line")
    path = receipts.path_beside("results/logs/measure.log")
    path.parent.mkdir()
    path.write_text(receipts.text(receipts.make(PROVENANCE, [], ["results/figures"])))
    return path


def found(**changes) -> dict[str, str]:
    """The faults of the folder, by path."""
    known = receipts.written([receipt for _, receipt in receipts.read(Path("results/receipts"))])
    return {path: fault for path, fault in receipts.faults(Path("results"), known, **changes) if fault}


def test_what_was_written_is_found_whole(study):
    assert found() == {}
    (receipt,) = [receipt for _, receipt in receipts.read(Path("results/receipts"))]
    assert [Path(entry["path"]).name for entry in receipt["outputs"]] == ["a.nc", "b.csv", "c.svg", "d.json"]
    assert receipt["outputs"][0]["bytes"] == 500
    assert receipt["rule"] == "measure" and receipt["hardware"]["cores"] >= 1 and receipt["seconds"] >= 0


@pytest.mark.parametrize("name", ["a.nc", "b.csv", "c.svg", "d.json"])
@pytest.mark.parametrize("place", [0, 250, 499])
def test_a_flipped_byte_is_found_whatever_the_time_stamp_says(study, name, place):
    path = Path("results/figures/tiny", name)
    before, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found() == {path.as_posix(): "was changed: its checksum differs"}


def test_truncated_missing_and_unknown_files_are_found(study):
    folder = Path("results/figures/tiny")
    (folder / "a.nc").write_bytes((folder / "a.nc").read_bytes()[:-1])
    (folder / "b.csv").unlink()
    (folder / "e.csv").touch()
    assert found() == {
        "results/figures/tiny/a.nc": "has 499 bytes, 500 were written",
        "results/figures/tiny/b.csv": "is missing",
        "results/figures/tiny/e.csv": "was written by no finished job",
    }


def test_hidden_files_and_links_are_found(study):
    folder = Path("results/figures/tiny")
    (folder / ".hidden").touch()
    (folder / "to_a_file").symlink_to("a.nc")
    (folder / "to_a_folder").symlink_to("/")
    (folder / "to_nothing").symlink_to("nothing")
    names = (".hidden", "to_a_file", "to_a_folder", "to_nothing")
    assert found() == {(folder / name).as_posix(): "was written by no finished job" for name in names}


def test_a_job_whose_receipt_is_gone_is_lost(study):
    known = [receipt for _, receipt in receipts.read(Path("results/receipts"))]
    jobs = [{"rule": "measure", "wildcards": {"model": name}} for name in ("tiny", "large")]
    assert receipts.lost(known, jobs) == ["measure model=large"]
    assert receipts.lost(known, jobs[:1]) == []


@pytest.mark.parametrize("content", ["[]", "[1, 2]", "null", "3", '"a"', "{}", "{", '{"sha256": 1}'])
def test_a_receipt_of_another_kind_is_a_changed_one(study, content):
    study.write_text(content, encoding="utf-8")
    assert [receipt for _, receipt in receipts.read(study.parent)] == [None]
    assert receipts.run_times("results/logs", "")["unfinished"] == ["measure.log"]


def test_temporary_files_may_be_gone_but_not_changed(study):
    Path("results/figures/tiny/a.nc").unlink()
    assert found(temporary=("figures",)) == {}
    Path("results/figures/tiny/b.csv").write_text("b.csv! " + "b.csv " * 99)
    assert list(found(temporary=("figures",))) == ["results/figures/tiny/b.csv"]


def test_jobs_of_the_study_are_those_whose_outputs_are_there_or_may_be_gone(study):
    known = [receipt for _, receipt in receipts.read(Path("results/receipts"))]
    other = receipts.make(PROVENANCE, [], []) | {"outputs": [{"path": "results/tables/old.csv"}]}
    assert receipts.of_study([*known, other], Path("results")) == known
    earlier = known[0] | {"started": "2020-01-01T00:00:00+00:00", "outputs": [dict(known[0]["outputs"][0], bytes=1)]}
    assert receipts.of_study([earlier, *known], Path("results")) == known
    assert receipts.written([*known, earlier]) == receipts.written(known)
    Path("results/figures/tiny/a.nc").unlink()
    assert receipts.of_study(known, Path("results")) == []
    assert receipts.of_study(known, Path("results"), ("figures",)) == known


def test_every_changed_byte_of_a_receipt_is_found(study):
    whole = study.read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1
        study.write_bytes(changed)
        assert [receipt for _, receipt in receipts.read(study.parent)] == [None], place


def test_a_receipt_lies_beside_its_log(study):
    assert receipts.path_beside("results/logs/a/b.c.log") == Path("results/receipts/a/b.c.json")
    assert json.loads(study.read_text())["sha256"]


def test_run_times_are_those_of_the_receipts(study):
    logs = Path("results/logs")
    for name in ("tally/a.log", "tally/b.log", "failed.log", "build_report.log"):
        (logs / name).parent.mkdir(exist_ok=True)
        (logs / name).touch()
    for name, seconds in (("a", 1.5), ("b", 2.0)):
        receipt = receipts.make(PROVENANCE | {"rule": "tally"}, [], []) | {"seconds": seconds}
        receipt["started"] = f"2020-01-0{seconds + 0.5:.0f}T23:59:00+00:00"
        receipt["hardware"] = {"processor": "a chip", "cores": 2, "memory_bytes": 24e9, "gpus": ["a GPU"]}
        path = receipts.path_beside(logs / "tally" / f"{name}.log")
        path.parent.mkdir(exist_ok=True)
        path.write_text(receipts.text(receipt))
    times = receipts.run_times("results/logs", "results/logs/build_report.log")
    assert times["rules"][1] == {"rule": "tally", "jobs": 2, "seconds": 3.5}
    assert [(rule["rule"], rule["jobs"]) for rule in times["rules"]] == [("measure", 1), ("tally", 2)]
    assert times["unfinished"] == ["failed.log"]
    assert times["machines"][1] == "a chip, 2 cores, 24 GB of memory, a GPU"
    measured = json.loads(study.read_text())["started"].partition("T")[0]
    assert times["days"] == ["2020-01-02", measured]
