"""The real workflow run in a folder of its own, and what it wrote."""

import atexit
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import yaml

from gatebook.run import receipts

ROOT = Path(__file__).parents[1]
LIBRARIES = ROOT / ".pytest_cache" / "library"
"""Copies of the library by their content, for all studies of tests."""
TINY = ROOT / "tests" / "config" / "tiny.yaml"  # the overlay of the smallest study that has every part
SELECTED = {  # how often each of four experts is selected; expert 3 of layer 7 never
    ("github", 0): [8000, 5000, 4000, 3000],
    ("github", 7): [5000, 7000, 8000, 0],
    ("arxiv", 0): [10_000, 10_000, 10_000, 10_000],
    ("arxiv", 7): [20_000, 10_000, 10_000, 0],
}
TOKENS = {"github": 10_000, "arxiv": 20_000}
COUNTS = "domain,layer,expert,selected_count,tokens\n" + "".join(
    f"{domain},{layer},{expert},{count},{TOKENS[domain]}\n"
    for (domain, layer), counts in SELECTED.items()
    for expert, count in enumerate(counts)
)
COUNTS_STUDY = {
    "study": {"title": "Counts", "models": ["published"], "datasets": list(TOKENS)},
    "models": {
        "published": {
            "source": "counts",
            "id": "allenai/OLMoE-1B-7B-0924",
            "revision": "v1",
            "files": ["data/counts.csv"],
            "experts_per_layer": 4,
            "experts_per_token": 2,
            "design_effect": 4,
        }
    },
    "datasets": {name: {"source": "counts", "domain": name} for name in TOKENS},
}
"""A study of published counts, read from data/counts.csv, which holds `COUNTS`."""
ABOUT_THE_RUN = ("logs", "benchmarks", "receipts", "provenance.json", "ro-crate-metadata.json")


def planned(dry_run: subprocess.CompletedProcess) -> dict[str, int]:
    """How many jobs of each rule a dry run announces, without `all`; nothing if there is nothing to be done."""
    table = dry_run.stdout.partition("Job stats:")[2].partition("\n\n")[0]
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}
    assert jobs or "Nothing to be done" in dry_run.stdout + dry_run.stderr
    return {name: count for name, count in jobs.items() if name not in ("all", "total")}


def hear_interrupts() -> None:
    """In a new process: an interrupt ends it, though the shell of the tests may have them ignored in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@cache
def forked() -> subprocess.Popen:
    """The process whose children run snakemake, one after another (forked.py)."""
    folder = tempfile.mkdtemp()
    command = [sys.executable, str(Path(__file__).with_name("forked.py")), folder]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)  # the end of its input ends it
    return server


class Workflow:
    """Snakemake on the Snakefile of a repository, this one or a copy, with results in `folder`."""

    def __init__(self, folder: Path, repository: Path = ROOT):
        self.folder, self.repository = folder, repository
        folder.mkdir(parents=True, exist_ok=True)

    def command(self, *arguments: str, configs: list[Path] = ()) -> list[str]:
        """The command line of snakemake with `arguments` and config overlays, in a folder that is ready for it."""
        compiled = self.folder / ".snakemake" / "library"
        if not compiled.exists():  # what studies compile serves the next ones
            LIBRARIES.mkdir(parents=True, exist_ok=True)
            compiled.parent.mkdir(exist_ok=True)
            compiled.symlink_to(LIBRARIES, target_is_directory=True)
        overlays = ["--configfile", *map(str, configs)] if configs else []
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.repository / "Snakefile")]
        return [*command, "--directory", str(self.folder), *overlays, *arguments]

    def run(self, *arguments: str, configs: list[Path] = (), timeout: int = 1800) -> subprocess.CompletedProcess:
        """Run snakemake; stdout and stderr are captured as text."""
        command = self.command(*arguments, configs=configs)
        with tempfile.TemporaryDirectory() as folder:
            printed = [Path(folder, name) for name in ("stdout", "stderr")]
            request = {"arguments": command[3:], "folder": str(Path.cwd()), "environment": dict(os.environ)}
            request |= {"stdout": str(printed[0]), "stderr": str(printed[1]), "timeout": timeout}
            server = forked()
            print(json.dumps(request), file=server.stdin, flush=True)
            code = int(server.stdout.readline())
            return subprocess.CompletedProcess(command, code, *(path.read_text(encoding="utf-8") for path in printed))

    def finish(self, *arguments: str, configs: list[Path] = (), timeout: int = 1800) -> subprocess.CompletedProcess:
        """Run snakemake and require that it succeeds."""
        done = self.run(*arguments, configs=configs, timeout=timeout)
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    def start(self, *arguments: str, configs: list[Path] = ()) -> subprocess.Popen:
        """Start snakemake as the leader of a process group; what it prints is added to `folder`/printed.txt."""
        with self.printed.open("ab") as output:
            command, pipes = self.command(*arguments, configs=configs), {"stdout": output, "stderr": output}
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, **pipes, start_new_session=True, preexec_fn=hear_interrupts
            )

    @property
    def printed(self) -> Path:
        """What the runs of `start` printed."""
        return self.folder / "printed.txt"

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every result; what tells of the run, not of the study, is left out."""
        results = self.folder / "results"
        files = {path.relative_to(results): path for path in sorted(results.rglob("*")) if path.is_file()}
        return {
            name.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in files.items()
            if name.parts[0] not in ABOUT_THE_RUN and name.name != "run.js" and name.name[0] != "."
        }

    def overlay(self, name: str, content: dict) -> Path:
        """Write a config overlay into the folder."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def restamp(self, rule: str, code: str) -> None:
        """Let receipts and Snakemake's metadata say that the outputs of a rule were made by code of another hash."""
        for path, receipt in receipts.read(self.folder / "results/receipts" / rule):
            path.write_text(receipts.text(receipt | {"code": code}), encoding="utf-8")
        for path in filter(Path.is_file, (self.folder / ".snakemake/metadata").rglob("*")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["rule"] == rule:
                is_code = re.compile("'[0-9a-f]{16}'").fullmatch
                record["params"] = [repr(code) if is_code(each) else each for each in record["params"]]
                path.write_text(json.dumps(record), encoding="utf-8")
