"""A job that extracts parts for other jobs leaves them on the shelf, each as its own job would have made it."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gatebook.files import atomic, origin
from gatebook.run import shelf

PARTS = ("code", "poems.shard_1_of_2", "poems.shard_2_of_2", "stories")
SETTINGS = {"model": {"dtype": "auto"}, "extraction": {"records": "exact"}}
RECORDS = Path("results/routing/tiny/final")


def tokens(part: str) -> Path:
    return Path("results/inputs/tiny", f"{part.split('.')[0]}.nc")


class Outputs(list):
    """The outputs of a job, of which the first is the records."""

    records = property(lambda self: self[0])


def running_workflow(names=PARTS, made=(), storage=None) -> SimpleNamespace:
    """A workflow that is to extract parts of a checkpoint, and to make the files of tokens `made`."""
    rules = {name: SimpleNamespace(name=name) for name in ("tokenize_dataset", "gatebook_extract_routing")}
    jobs = [SimpleNamespace(rule=rules["tokenize_dataset"], output=[str(path)]) for path in made]
    jobs += [
        SimpleNamespace(
            rule=rules["gatebook_extract_routing"],
            wildcards=SimpleNamespace(part=name),
            input=SimpleNamespace(tokens=str(tokens(name))),
            output=Outputs([str(RECORDS / name)]),
        )
        for name in names
    ]
    settings = SimpleNamespace(default_storage_provider=storage)
    return SimpleNamespace(storage_settings=settings, dag=SimpleNamespace(needrun_jobs=lambda: iter(jobs)))


class Job:
    """Jobs of parts whose model is a function that writes what it was given; `did` is what it did."""

    def __init__(self, seconds: float = 0.0, loading: float = 0.0, broken: str | None = None):
        self.did, self.loads, self._seconds, self._loading, self._broken = [], 0, seconds, loading, broken

    def run(self, part: str, runtime: int = 60, **changes) -> list[str]:
        """Run the job of a part, in another study if there are `changes`: the parts that it extracted."""
        before = len(self.did)
        provenance = {
            "wildcards": {"model": "tiny", "checkpoint": "final", "part": part},
            "settings": SETTINGS | {"place": shelf.parts.place_of(part)},
            "code": "c0de",
        }
        origin.start(provenance | changes)
        snakemake = SimpleNamespace(
            wildcards=SimpleNamespace(part=part),
            input=SimpleNamespace(tokens=str(tokens(part)), description="results/inputs/tiny/final.json"),
            output=SimpleNamespace(records=str(RECORDS / part)),
            resources=SimpleNamespace(runtime=runtime),
        )
        shelf.extract(snakemake, self._load)
        assert origin.provenance() == provenance | changes
        return self.did[before:]

    def _load(self) -> shelf.Extract:
        self.loads += 1
        time.sleep(self._loading)
        return self._extract

    def _extract(self, tokens: Path, place: dict, folder: Path) -> tuple[float, str]:
        name = origin.provenance()["wildcards"]["part"]
        self.did.append(name)
        if name == self._broken:
            raise ValueError("no such token")
        with atomic.atomic_directory(folder) as partial:
            content = {"made by": origin.provenance(), "tokens": tokens.read_text(), "place": place}
            (partial / "layer_0.nc").write_text(json.dumps(content, sort_keys=True))
        return self._seconds, f"{name} in no time"


@pytest.fixture
def study(tmp_path, monkeypatch, caplog):
    """A folder with tokens of all parts; the log."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "gatebook")
    started = time.time()  # the job's process, in place of that of all tests
    monkeypatch.setattr(shelf.psutil, "Process", lambda: SimpleNamespace(create_time=lambda: started))
    for path in {tokens(part) for part in PARTS}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"tokens of {path.stem}")
    Path("results/inputs/tiny/final.json").write_text("weights")
    yield caplog
    origin.start({})


@pytest.fixture
def plans(study):
    """The plans of a running workflow."""
    files = shelf.plan(running_workflow())
    yield files
    for file in files:
        file.close()


def written() -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in RECORDS.glob("[!.]*/layer_0.nc")}


def lying() -> set[str]:
    return {path.name for path in (RECORDS / ".finished").iterdir() if path.is_dir()}


def test_the_model_is_loaded_once_and_the_bytes_are_those_of_own_jobs(study):
    alone = Job()
    for part in PARTS:
        assert alone.run(part) == [part]
    expected = written()
    assert alone.loads == 4 and not (RECORDS / ".finished").exists()  # nothing runs that has a plan
    plans, together = shelf.plan(running_workflow()), Job()
    for part in PARTS:
        together.run(part)
    assert together.loads == 1 and sorted(together.did) == sorted(PARTS)
    assert written() == expected and lying() == set()
    assert "stories in no time, extracted by the job of code" in study.messages
    shelf.clear(plans, Path("results"))
    assert not (RECORDS / ".finished").exists()


def test_on_object_storage_and_without_jobs_there_is_no_plan(study):
    assert shelf.plan(running_workflow(storage="s3")) == shelf.plan(running_workflow(names=())) == []
    assert not RECORDS.exists()


COMPACT = SETTINGS | {"extraction": {"records": "compact"}, "place": {"shard": 1, "shards": 1}}
CHANGES = {"nothing": {}, "code": {"code": "new"}, "a setting": {"settings": COMPACT}, "tokens": {}, "weights": {}}
FILES = {"tokens": "results/inputs/tiny/stories.nc", "weights": "results/inputs/tiny/final.json"}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_lies_on_the_shelf_is_taken_only_if_it_is_what_the_job_would_make(plans, changed):
    job = Job()
    job.run("code")
    assert "stories" in lying()
    if changed in FILES:
        Path(FILES[changed]).write_text("others")
    assert job.run("stories", **CHANGES[changed])[:1] == ([] if changed == "nothing" else ["stories"])
    made = json.loads(written()["stories"])
    assert made["tokens"] == tokens("stories").read_text()
    assert made["made by"].items() >= CHANGES[changed].items()


def test_a_part_that_this_run_extracted_is_not_extracted_again(plans):
    job = Job()
    assert sorted(job.run("code")) == sorted(PARTS)
    assert job.run("stories") == []
    assert job.run("code") == ["code"]  # a second attempt; the others were made, one of them even taken
    assert lying() == {"poems.shard_1_of_2", "poems.shard_2_of_2"}


def test_a_run_without_extractions_keeps_what_lies_on_a_shelf_and_deletes_an_empty_one(study):
    (file,) = shelf.plan(running_workflow(PARTS[2:]))
    Job().run("stories")
    file.close()  # the run was killed
    shelf.clear([], Path("results"))
    assert lying() == {"poems.shard_2_of_2"}
    (file,) = shelf.plan(running_workflow(PARTS[2:]))
    Job().run("poems.shard_2_of_2")
    file.close()
    shelf.clear([], Path("results"))
    assert not (RECORDS / ".finished").exists()


def test_a_next_run_takes_what_an_earlier_one_left(study):
    (file,) = shelf.plan(running_workflow())
    job = Job()
    job.run("code")
    file.close()
    assert job.run("stories") == ["stories"]  # without a plan, such as a script run by itself
    plans = shelf.plan(running_workflow(PARTS[1:]))
    for part in PARTS[1:3]:
        assert job.run(part) == []
    assert job.loads == 2 and plans


def test_a_job_does_no_more_for_others_when_its_workflow_has_ended(plans):
    class Killed(Job):
        def _extract(self, *given):
            plans[0].close()
            return super()._extract(*given)

    assert Killed().run("code") == ["code"]


def test_the_tokens_of_another_part_have_to_be_those_of_this_run(study):
    files = shelf.plan(running_workflow(made=[tokens("stories"), tokens("poems")]))
    plan = RECORDS / ".finished/plan.json"
    os.utime(tokens("poems"), ns=(plan.stat().st_mtime_ns + 1,) * 2)
    os.utime(tokens("stories"), ns=(plan.stat().st_mtime_ns - 1,) * 2)
    job = Job()
    assert job.run("code") == ["code", "poems.shard_1_of_2", "poems.shard_2_of_2"]
    tokens("stories").unlink()
    assert job.run("poems.shard_1_of_2") == [] and files


@pytest.mark.parametrize(("seconds", "runtime", "others"), [(0, 60, 3), (3600, 10**6, 0), (1e-6, 0, 0)])
def test_a_job_goes_on_while_loading_counts_and_its_time_allows(plans, seconds, runtime, others):
    assert len(Job(seconds, loading=0.01).run("code", runtime)) == 1 + others


def test_a_large_part_is_left_and_small_ones_are_done(plans):
    os.truncate(tokens("poems"), 10**10)
    assert Job(1e-3, loading=0.01).run("code") == ["code", "stories"]


def test_a_part_that_fails_is_left_to_its_own_job(plans, study):
    job = Job(broken="poems.shard_1_of_2")
    assert job.run("code") == ["code", "poems.shard_1_of_2"]
    assert set(written()) == {"code"}
    assert "poems.shard_1_of_2 is left to its own job: no such token" in study.messages
    with pytest.raises(ValueError, match="no such token"):
        job.run("poems.shard_1_of_2")


ANOTHER = """
import sys, time
from tests.unit.test_shelf import Job

class Other(Job):
    def _extract(self, tokens, place, folder):
        if len(self.did) == int(sys.argv[2]):
            print("begun", flush=True)
            time.sleep(600)
        return super()._extract(tokens, place, folder)

print(*Other().run(sys.argv[1]), flush=True)
"""


@pytest.fixture
def another(plans):
    """Start a process with the job of a part, which stays in the extraction of the part after so many others."""
    started = []

    def start(part: str, others: int) -> subprocess.Popen:
        root = Path(__file__).parents[2]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (root, root / "scripts")))}
        command = [sys.executable, "-c", ANOTHER, part, str(others)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "begun\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_a_killed_job_finished_is_not_lost(another):
    process = another("code", 2)
    process.kill()
    process.wait()
    assert lying() == {"code", "poems.shard_1_of_2"} and written() == {}
    job = Job()
    assert job.run("poems.shard_1_of_2") == []
    assert job.run("code") == []
    assert job.run("stories") == ["stories", "poems.shard_2_of_2"]
    assert job.run("poems.shard_2_of_2") == [] and set(written()) == set(PARTS)
    assert not list(RECORDS.rglob("*.partial"))


def test_two_jobs_extract_no_part_twice_and_one_waits_for_its_own(another, study):
    process, job = another("code", 1), Job()  # it is in the first shard
    assert job.run("stories") == ["stories", "poems.shard_2_of_2"]
    handler = logging.Handler()
    handler.emit = lambda record: process.kill()  # as soon as the job below says that it waits for the process
    logging.getLogger("gatebook").addHandler(handler)
    try:
        assert job.run("poems.shard_1_of_2") == ["poems.shard_1_of_2"]
    finally:
        logging.getLogger("gatebook").removeHandler(handler)
    assert "poems.shard_1_of_2 is being extracted by another job: waiting for it" in study.messages


def test_where_no_file_can_be_locked_every_job_loads_the_model(study, monkeypatch):
    def refused(file, how):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    plans, job = shelf.plan(running_workflow()), Job()
    assert job.run("code") == ["code"] and job.run("stories") == ["stories"]
    shelf.clear(plans, Path("results"))
    assert set(written()) == {"code", "stories"}
