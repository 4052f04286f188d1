"""The shelf of a checkpoint: parts that a job extracts for the jobs of other parts, while it has the model in memory.

The folder `.finished` beside the records of a checkpoint holds the records of each part until the part's own job takes
them, and `{part}.json`, the part's lock and a note of what the records were made from. `plan.json` lists the parts that
the running workflow extracts, and is locked for as long as it runs: without such a plan nothing is put on the shelf or
taken from it. Locks end with the process that has them.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import psutil

from gatebook.files import origin, parts
from gatebook.files.checksums import sha256
from gatebook.run import job

if TYPE_CHECKING:
    from snakemake.script import Snakemake
    from snakemake.workflow import Workflow

LOADING_SHARE = 0.1
"""A job takes further parts until loading is this share of what extraction takes: their own jobs wait meanwhile."""
RUNTIME_SHARE = 0.5
"""A job takes a further part only if that should end within this share of the time that the job may take."""

Extract = Callable[[Path, dict[str, int], Path], tuple[float, str]]
"""Extracts a part by the model in memory, from its tokens, its place and the folder for its records: the seconds that
this took, without loading, and a line for the log."""


class Part(NamedTuple):
    """A part of a dataset: its name, the file of its tokens, and whether the same run makes that file anew."""

    name: str
    tokens: str
    anew: bool = False

    @property
    def size(self) -> float:
        """A measure of how long its extraction takes: bytes of its tokens."""
        return Path(self.tokens).stat().st_size / parts.place_of(self.name)["shards"]


def plan(workflow: "Workflow") -> list[TextIO]:
    """Write the plan of each checkpoint of which a workflow, which is about to start, extracts parts.

    A plan holds until its file, which is returned, is closed, at the latest when the process ends. There is none on
    object storage, nor where files cannot be locked: there every job loads the model for itself.
    """
    needed = [] if workflow.storage_settings.default_storage_provider else list(workflow.dag.needrun_jobs())
    made = {str(path) for each in needed for path in each.output}
    planned: dict[Path, list[Part]] = {}
    for each in needed:
        if each.rule.name.endswith("extract_routing"):  # an importing workflow may put a prefix before it
            part = Part(each.wildcards.part, str(each.input.tokens), str(each.input.tokens) in made)
            planned.setdefault(_folder(each.output.records), []).append(part)
    files = []
    for folder, wanted in planned.items():
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "plan.json").open("a", encoding="utf-8")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(file, {"run": time.time_ns(), "parts": sorted(wanted)})
        files.append(file)
    return files


def clear(plans: list[TextIO]) -> None:
    """Delete the shelves of a workflow that succeeded, by its plans: nobody waits for what is left there."""
    for file in plans:
        file.close()
        shutil.rmtree(Path(file.name).parent)


def extract(snakemake: "Snakemake", load: Callable[[], Extract]) -> None:
    """Make the records of a job's part: from the shelf, or else by the model, which `load` loads.

    A job that loads the model extracts, after its own part, the others of the checkpoint that the run needs and no job
    has begun. Its own go to the shelf, too, until it ends: Snakemake deletes the output of a job that is killed.
    """
    part, records = Part(snakemake.wildcards.part, str(snakemake.input.tokens)), Path(snakemake.output.records)
    folder = _folder(records)
    if (living := _living(folder / "plan.json")) is None:
        _, line = load()(Path(part.tokens), parts.place_of(part.name), records)
        job.log(line)
    else:
        shelf = _Shelf(folder, part, living, Path(snakemake.input.description))
        shelf.serve(records, load, 60 * snakemake.resources.runtime)


class _Shelf:
    """The shelf as the job of the part `own` sees it; `plan` is that of the running workflow."""

    def __init__(self, folder: Path, own: Part, plan: dict, description: Path):
        self._folder, self._own, self._run = folder, own, plan["run"]
        self._others = [Part(*each) for each in plan["parts"] if each[0] != own.name]
        self._began = (folder / "plan.json").stat().st_mtime_ns
        self._provenance, self._model = origin.provenance(), sha256(description)

    def serve(self, records: Path, load: Callable[[], Extract], runtime: float) -> None:
        """Bring the own part to its place, after extracting it, and others, if it is not there yet."""
        with self._claimed(self._own, wait=True) as note:
            found = _read(note)
            if self._lies(self._own, found):
                job.log(f"{found['line']}, extracted by the job of {found['by']}")
            else:
                self._fill(load, note, runtime)
            _write(note, _read(note) | {"run": self._run})
            _remove(records)
            (self._folder / self._own.name).rename(records)

    def _fill(self, load: Callable[[], Extract], note: TextIO, runtime: float) -> None:
        """Extract the own part, and others as long as that is worth while and `runtime`, in seconds, allows."""
        began, latest = time.time(), psutil.Process().create_time() + RUNTIME_SHARE * runtime
        extract = load()
        spent, size = self._put(self._own, extract, note), self._own.size
        loading = time.time() - began - spent
        while part := next(filter(self._ready, self._others), None):
            self._others.remove(part)
            needed = spent * part.size / size
            if spent + needed > loading / LOADING_SHARE or time.time() + needed > latest:
                continue  # a smaller one may still be worth while
            with self._claimed(part) as note:
                if note is None or _read(note).get("run") == self._run or self._lies(part, _read(note)):
                    continue
                try:
                    spent, size = spent + self._put(part, extract, note), size + part.size
                except Exception as error:  # the part's own job will meet it, and say more
                    job.log(f"{part.name} is left to its own job: {error}")
                    break

    def _put(self, part: Part, extract: Extract, note: TextIO) -> float:
        """Extract a part to the shelf as its own job would, in place of what lies there; the seconds that it took."""
        _write(note, {})
        target = self._folder / part.name
        _remove(target)
        own, provenance = origin.provenance(), self._provenance_of(part)
        try:
            origin.start(provenance)
            seconds, line = extract(Path(part.tokens), parts.place_of(part.name), target)
        finally:
            origin.start(own)
        job.log(line if part == self._own else f"{part.name}: {line}")
        _write(note, {"run": self._run, "key": self._key(part), "by": self._own.name, "line": line})
        return seconds

    def _ready(self, part: Part) -> bool:
        """Whether the tokens of a part are there, and those that this run makes anew were made."""
        tokens = Path(part.tokens)
        return tokens.exists() and (not part.anew or tokens.stat().st_mtime_ns >= self._began)

    def _lies(self, part: Part, note: dict) -> bool:
        """Whether records of a part lie on the shelf that are what its own job would make."""
        return note.get("key") == self._key(part) and (self._folder / part.name).is_dir()

    def _key(self, part: Part) -> str:
        """What the records of a part are made from: provenance, tokens, model."""
        made_from = [self._provenance_of(part), sha256(part.tokens), self._model]
        return hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()

    def _provenance_of(self, part: Part) -> dict:
        """The provenance that the job of a part has: that of this job but for the part."""
        wildcards = self._provenance["wildcards"] | {"part": part.name}
        settings = self._provenance["settings"] | {"place": parts.place_of(part.name)}
        return self._provenance | {"wildcards": wildcards, "settings": settings}

    @contextmanager
    def _claimed(self, part: Part, wait: bool = False) -> Iterator[TextIO | None]:
        """The note of a part, locked; None if another job has it and this one does not `wait`."""
        with (self._folder / f"{part.name}.json").open("a+", encoding="utf-8") as note:
            try:
                fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield None
                    return
                job.log(f"{part.name} is being extracted by another job: waiting for it")
                fcntl.flock(note, fcntl.LOCK_EX)
            yield note


def _folder(records: str | Path) -> Path:
    """The shelf for records such as results/routing/demo/step400/python."""
    return Path(records).parent / parts.SHELF


def _living(plan: Path) -> dict | None:
    """The plan of a workflow that runs; None if there is no plan, or its workflow has ended."""
    try:
        with plan.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return json.loads(plan.read_text(encoding="utf-8"))
    except OSError:  # there is none, or no file can be locked
        return None
    return None


def _read(note: TextIO) -> dict:
    """What a note says; nothing if it is new, or its job was killed."""
    note.seek(0)
    with suppress(json.JSONDecodeError):
        return json.loads(note.read())
    return {}


def _write(note: TextIO, content: dict) -> None:
    """Write a file anew that stays open, and locked."""
    note.truncate(0)
    json.dump(content, note)
    note.flush()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
