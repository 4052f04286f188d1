"""Receipts: what each finished job wrote, with checksums; where it ran, and for how long.

A receipt lies beside the log of its job, under `receipts` instead of `logs`. It is JSON of one form (`text`), with the
checksum of its own content, so that a changed receipt is found like any other changed file.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from gatebook.files import checksums
from gatebook.files.parts import SHELF

UNRECORDED = ("logs", "benchmarks", "receipts")
"""Folders of the results that tell of runs, not of the study: nobody keeps their checksums."""
TIMESTAMP = ".snakemake_timestamp"


def path_beside(log: str | Path) -> Path:
    """Where the receipt of a job lies whose log is `log`, a path such as results/logs/a_rule/a_dataset.log."""
    parts = ["receipts" if part == "logs" else part for part in Path(log).parts]
    return Path(*parts).with_suffix(".json")


def make(provenance: dict, inputs: list[str], outputs: list[str]) -> dict:
    """The receipt of the running job: its `provenance` and `inputs`, and path, SHA-256 and bytes of what it wrote.

    Times are UTC, `seconds` are those since the start of this process.
    """
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    now = datetime.now(UTC)
    return provenance | {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((now - started).total_seconds(), 1),
        "hardware": hardware(),
        "inputs": inputs,
        "outputs": [_entry(path) for output in outputs for path in _files(Path(output))],
    }


def text(receipt: dict) -> str:
    """A receipt as JSON, with the SHA-256 of everything else in its last line but one."""
    content = json.loads(json.dumps(receipt, sort_keys=True, default=str))
    return json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n"


def written(found: list[dict]) -> dict[str, dict]:
    """What the latest job that wrote it says of each output: entries {path, sha256, bytes} by path."""
    latest = sorted(found, key=lambda receipt: receipt["started"])
    return {entry["path"]: entry for receipt in latest for entry in receipt["outputs"]}


def read(folder: Path) -> Iterator[tuple[Path, dict | None]]:
    """Every receipt below a folder with its path; None for one that was changed since it was written."""
    for path in sorted(folder.rglob("*.json")):
        yield path, _content(path)


def run_times(logs: str | Path, running: str) -> dict:
    """What the logs below the folder `logs`, and the receipts, say of the jobs, but for the one whose log is `running`.

    Returns {rules, unfinished, machines, days}: rules is a list of {rule, jobs, seconds}, how many jobs of each rule
    finished and their summed wall time; unfinished names the logs without a whole receipt: of jobs that failed, were
    stopped or run; days are those on which the first and the last job began, ISO 8601 in UTC, none without a finished
    job.
    """
    rules: dict[str, list[float]] = {}
    unfinished, machines, days = [], {}, set()
    for path in sorted(Path(logs).rglob("*.log")):
        content = _content(path_beside(path))
        if content:
            rules.setdefault(content["rule"], []).append(content["seconds"])
            machines[_machine(content["hardware"])] = None
            days.add(content["started"].partition("T")[0])
        elif path != Path(running):
            unfinished.append(path.relative_to(logs).as_posix())
    times = [{"rule": rule, "jobs": len(times), "seconds": round(sum(times), 1)} for rule, times in rules.items()]
    ends = [min(days), max(days)] if days else []
    return {"rules": times, "unfinished": unfinished, "machines": list(machines), "days": ends}


def faults(results: Path, known: dict[str, dict], temporary: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Path and fault of every file of the results, and "" for one that is what its job wrote.

    `known` are the entries of all outputs (`written`). `temporary` are the folders of the results whose files may be
    gone.
    """
    for name, entry in sorted(known.items()):
        path = Path(name)
        if not path.is_file():
            yield name, "" if _may_be_gone(path, results, temporary) else "is missing"
        elif path.stat().st_size != entry["bytes"]:
            yield name, f"has {path.stat().st_size:,} bytes, {entry['bytes']:,} were written"
        else:
            yield name, "" if checksums.sha256(path) == entry["sha256"] else "was changed: its checksum differs"
    for path in _files(results):
        if path.as_posix() not in known and path.relative_to(results).parts[0] not in UNRECORDED:
            yield path.as_posix(), "was written by no finished job"


def lost(found: list[dict], jobs: list[dict]) -> list[str]:
    """The `jobs`, in words, that are not among those of the receipts `found`; both are {rule, wildcards, ...}."""

    def words(job: dict) -> str:
        return " ".join([job["rule"], *(f"{name}={value}" for name, value in job["wildcards"].items())])

    left = set(map(words, found))
    return [job for job in map(words, jobs) if job not in left]


def of_study(found: list[dict], results: Path, temporary: Sequence[str] = ()) -> list[dict]:
    """Of the receipts `found`, those of jobs whose outputs are all there, or may be gone, as in `faults`.

    Those of an earlier study in the same folder, whose outputs were deleted or written again by another job, are left
    out.
    """
    known = written(found)

    def stands(entry: dict) -> bool:
        """Whether an output is still that of its job."""
        path = Path(entry["path"])
        return known[entry["path"]] is entry and (path.is_file() or _may_be_gone(path, results, temporary))

    return [receipt for receipt in found if all(map(stands, receipt["outputs"]))]


def hardware() -> dict:
    """The machine that this process runs on: system, processor, cores, memory, and GPUs if it uses any."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    gpus = [cuda.get_device_name(index) for index in range(cuda.device_count())] if cuda else []
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
    }


def _may_be_gone(path: Path, results: Path, temporary: Sequence[str]) -> bool:
    return any(path.is_relative_to(results / folder) for folder in temporary)


def _machine(hardware: dict) -> str:
    """A machine in words."""
    memory = f"{hardware['memory_bytes'] / 1e9:.0f} GB of memory"
    return ", ".join([hardware["processor"], f"{hardware['cores']} cores", memory, *hardware["gpus"]])


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _files(path: Path) -> list[Path]:
    """A file, or the files and links below a folder, but for Snakemake's time stamps and the shelves of extraction."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.is_symlink() or file.is_file())
    return sorted(file for file in found if file.name != TIMESTAMP and SHELF not in file.parts)


def _content(path: Path) -> dict | None:
    """What a receipt says; None if there is none, or it was changed since it was written."""
    try:
        written = path.read_text(encoding="utf-8")
        receipt = json.loads(written)
        receipt.pop("sha256")
        return receipt if text(receipt) == written else None
    except (FileNotFoundError, ValueError, AttributeError, TypeError, KeyError):
        return None


def _entry(path: Path) -> dict:
    return {"path": path.as_posix(), "sha256": checksums.sha256(path), "bytes": path.stat().st_size}


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
