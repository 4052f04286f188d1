"""The library can be imported in the environment that the Makefile makes, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(folder: Path) -> str:
    """What `make environment` prints for the environment in `folder`."""
    command = ["make", "--directory", str(ROOT), "environment", f"VENV={folder}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def imported(folder: Path, elsewhere: Path) -> str:
    """Where the environment in `folder` finds the library, when it is used in the folder `elsewhere`."""
    line = "import gatebook, pathlib; print(pathlib.Path(gatebook.__file__).resolve())"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(folder / "bin" / "python"), "-c", line]
    return subprocess.run(command, cwd=elsewhere, env=clean, check=True, capture_output=True, text=True).stdout.strip()


def test_the_library_is_in_the_environment_and_stays(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (folder / "study.done").touch()  # the packages count as installed
    make(folder)
    assert imported(folder, tmp_path) == str(ROOT / "scripts" / "gatebook" / "__init__.py")
    assert "Nothing to be done" in make(folder)
    (folder / "study.done").touch()  # as after an installation of other packages
    make(folder)
    assert imported(folder, tmp_path) == str(ROOT / "scripts" / "gatebook" / "__init__.py")
