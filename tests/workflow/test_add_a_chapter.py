"""CONTRIBUTING's worked example: its files, written into a copy of the repository, are a chapter of the report."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from studies import COUNTS, COUNTS_STUDY, ROOT, Workflow

FILES = dict(re.findall(r"^`([\w/.]+)`:\n```python\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S))
COPIED = (
    "Snakefile",
    "rules",
    "scripts",
    "config",
    "envs",
    "report",
    "tests",
    "pyproject.toml",
    "profiles",
    "CITATION.cff",
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of the repository with the files of the example."""
    folder = tmp_path_factory.mktemp("copy")
    for source in (ROOT / name for name in COPIED):
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, folder / source.name)
    for path, content in FILES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory) -> Workflow:
    """A finished study of published counts that has the chapter."""
    made = Workflow(tmp_path_factory.mktemp("example") / "study", repository)
    (made.folder / "data").mkdir()
    (made.folder / "data/counts.csv").write_text(COUNTS)
    chapters = ["selection_frequency", "busiest_expert"]
    made.finish("--cores", "2", configs=[made.overlay("counts.yaml", COUNTS_STUDY | {"chapters": chapters})])
    return made


def test_the_example_is_a_folder_a_rule_a_script_and_tests():
    assert sorted(FILES) == [
        "rules/busiest_expert.smk",
        "scripts/gatebook/chapters/busiest_expert/__init__.py",
        "scripts/gatebook/chapters/busiest_expert/measure.py",
        "scripts/gatebook/chapters/busiest_expert/page.py",
        "scripts/measure_busiest_expert.py",
        "tests/unit/chapters/test_busiest_expert.py",
    ]


def test_it_is_measured_and_in_the_report(study):
    metrics = xr.open_dataset(study.folder / "results/metrics/published/v1/busiest_expert.nc")
    share = metrics["busiest_share"].sel(dataset="github", layer=0, interval="estimate").item()
    assert share == pytest.approx(0.8, abs=0.01)
    page = (study.folder / "results/report/busiest_expert.html").read_text(encoding="utf-8")
    assert "Which share of the tokens does the busiest expert get?" in page
    assert "Share of the busiest expert by layer" in page
    assert 'href="busiest_expert.html"' in (study.folder / "results/report/index.html").read_text(encoding="utf-8")
    assert "maxₑ cₑ / T" in (study.folder / "results/report/methods.html").read_text(encoding="utf-8")


def test_its_threshold_is_checked_like_any_other(study):
    wrong = study.overlay("wrong.yaml", COUNTS_STUDY | {"busiest_expert": {"thresholds": {"crowded": 2}}})
    done = study.run("--dry-run", configs=[wrong])
    assert done.returncode != 0
    assert "config: busiest_expert.thresholds.crowded: 2 is not allowed: write a number above 0 and of at most 1." in (
        done.stderr
    )


def test_its_own_tests_pass(repository):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit/chapters/test_busiest_expert.py",
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_its_code_is_in_the_style_of_the_house(repository):
    paths = [path for path in FILES if path.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *paths], cwd=repository, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
