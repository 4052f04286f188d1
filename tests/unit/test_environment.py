"""The environments, and that a chapter has all its parts."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted(path.stem.removeprefix("measure_") for path in (ROOT / "scripts").glob("measure_*.py"))


def pins(name: str) -> list[str]:
    """The requirements of a file in envs/."""
    lines = (ROOT / "envs" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_requirement_is_an_exact_version():
    for name in ("requirements.txt", "requirements-test.txt"):
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins(name))


def test_the_conda_environment_has_the_same_pins():
    conda = yaml.safe_load((ROOT / "envs" / "study.yaml").read_text(encoding="utf-8"))
    (pip,) = (part["pip"] for part in conda["dependencies"] if isinstance(part, dict))
    assert sorted(pip) == sorted(pins("requirements.txt"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_all_its_parts(chapter):
    parts = (
        f"rules/{chapter}.smk",
        f"scripts/plot_{chapter}.py",
        f"scripts/moeatlas/{chapter}.py",
        f"scripts/moeatlas/pages/{chapter}.py",
        f"report/captions/{chapter}.rst",
        f"tests/unit/test_{chapter}.py",
    )
    assert [part for part in parts if not (ROOT / part).is_file()] == []
    assert f'"{chapter}"' in (ROOT / "rules" / "common.smk").read_text(encoding="utf-8")
