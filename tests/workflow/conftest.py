"""Fixtures that run the real workflow in a folder of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class Workflow:
    """Snakemake on this repository's Snakefile, with results in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, *arguments: str, configs: list[Path] = (), timeout: int = 600) -> subprocess.CompletedProcess:
        """Run snakemake with `arguments` and config overlays; stdout and stderr are captured as text."""
        overlays = ["--configfile", *map(str, configs)] if configs else []
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        return subprocess.run(
            [*command, "--directory", str(self.folder), *overlays, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def finish(self, *arguments: str, configs: list[Path] = ()) -> subprocess.CompletedProcess:
        """Run snakemake and require that it succeeds."""
        done = self.run(*arguments, configs=configs)
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    def overlay(self, name: str, content: dict) -> Path:
        """Write a config overlay into the folder."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path


@pytest.fixture
def workflow(tmp_path):
    """A workflow without results."""
    return Workflow(tmp_path / "study")


@pytest.fixture(scope="session")
def new_workflow(tmp_path_factory):
    """Make a workflow without results that several tests share."""
    return lambda name: Workflow(tmp_path_factory.mktemp(name) / "study")


@pytest.fixture(scope="session")
def tiny_config():
    """The overlay of the smallest study that has every part."""
    return ROOT / "tests" / "config" / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory, tiny_config):
    """The finished tiny study, made with two cores."""
    study = Workflow(tmp_path_factory.mktemp("tiny") / "two cores")
    study.finish("--cores", "2", configs=[tiny_config])
    return study
