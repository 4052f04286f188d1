"""The environments have the same pins."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def pins(name: str) -> list[str]:
    """The requirements of a file in envs/."""
    lines = (ROOT / "envs" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_requirement_is_an_exact_version():
    for name in ("requirements.txt", "requirements-test.txt"):
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins(name))


def test_the_tests_install_nothing_that_the_study_installs():
    """The demo is trained on text of the study's packages: another version of one would be another demo."""
    study, tests = ({pin.partition("==")[0].lower() for pin in pins(f"requirements{of}.txt")} for of in ("", "-test"))
    assert study & tests == set()


def test_the_conda_environment_has_the_same_pins():
    conda = yaml.safe_load((ROOT / "envs" / "study.yaml").read_text(encoding="utf-8"))
    (pip,) = (part["pip"] for part in conda["dependencies"] if isinstance(part, dict))
    assert sorted(pip) == sorted(pins("requirements.txt"))


@pytest.mark.parametrize("name", ["Dockerfile", "apptainer.def"])
def test_an_image_has_the_python_of_the_conda_environment_and_the_same_pins(name):
    conda = yaml.safe_load((ROOT / "envs" / "study.yaml").read_text(encoding="utf-8"))
    (python,) = (part for part in conda["dependencies"] if str(part).startswith("python="))
    lines = [line for line in (ROOT / "envs" / name).read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    (base,) = (line for line in lines if line.lower().startswith("from"))
    assert base.endswith(f"python:{python.removeprefix('python=')}-slim")
    (copy,) = (line.split() for line in lines if re.match("COPY|.*/requirements.txt /", line))
    assert Path(copy[-2]).name == "requirements.txt" and (ROOT / "envs" / Path(copy[-2]).name).is_file()
    (install,) = (line for line in lines if "pip install" in line)
    assert install.endswith(f"--requirement {copy[-1]}")
