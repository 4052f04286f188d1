"""Imports run down only: a package knows those before it, never those after it, and no module needs itself."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from gatebook import chapters
from gatebook.run.code import closure

SCRIPTS = Path(__file__).parents[2] / "scripts"
LIBRARY = SCRIPTS / "gatebook"
ORDER = [
    "problem", "capabilities", "files", "run", "inputs", "routing", "study", "measures", "figures", "chapters", "atlas",
    "report", "lists",
]  # fmt: skip
WITHOUT_FIGURES = [
    "combine", "describe", "export", "extract", "fetch", "generate", "harvest", "import", "list", "make", "measure",
    "name", "read", "sample", "scan", "select", "split", "tally", "tokenize", "train",
]  # fmt: skip
FILES = sorted(LIBRARY.rglob("*.py"))


def module_of(path: Path) -> str:
    """The name of a module of the library, such as `files.atomic`; "" for the library itself."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path, everywhere: bool) -> set[str]:
    """The modules of the library that a file imports: when it is imported itself, or `everywhere` in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import is not hashed"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = {name.partition(".")[2] for name in names if name.split(".")[0] == "gatebook"} & set(MODULES)
    return found - {module_of(path), ""}


def test_every_part_of_the_library_has_a_place_in_the_order():
    parts = {name.split(".")[0] for name in MODULES} - {""}
    assert sorted(ORDER) == sorted(parts)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_down_only(name):
    place = len(ORDER) if name == "" else ORDER.index(name.split(".")[0])
    above = {other for other in imported(MODULES[name], everywhere=True) if ORDER.index(other.split(".")[0]) > place}
    assert not above


def test_no_module_needs_itself():
    TopologicalSorter({name: imported(path, everywhere=False) for name, path in MODULES.items()}).prepare()


def test_no_module_of_a_chapter_imports_a_page():
    """Which figures measures could reach is what scripts reach, below."""
    for name, path in MODULES.items():
        package, *inside = name.split(".")
        if package == "chapters" and inside[1:]:
            pages = {other for other in imported(path, everywhere=True) if other.endswith(".page")}
            assert pages <= ({"chapters.base.page"} if inside[-1] == "page" else set()), name


@pytest.mark.parametrize(
    "script",
    [path.name for path in sorted(SCRIPTS.glob("*.py")) if path.name.split("_")[0] in WITHOUT_FIGURES],
)
def test_scripts_that_draw_nothing_reach_neither_figures_nor_the_report(script):
    reached = {module_of(path) for path in closure(SCRIPTS / script, LIBRARY)}
    assert {name for name in reached if name.split(".")[0] in ("figures", "report")} == set()
    assert not any(name.endswith("page") for name in reached)


def loaded(*scripts: str) -> set[str]:
    """The packages that a process has loaded when it has run the imports of scripts."""
    lines = [line for name in scripts for line in (SCRIPTS / name).read_text(encoding="utf-8").splitlines()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    code = "\n".join([*imports, "import sys", "print(*sys.modules)"])
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_chapters_that_need_no_model_and_tokenizing_load_no_framework():
    names = [path.stem.removeprefix("measure_") for path in SCRIPTS.glob("measure_*.py")]
    light = [name for name in names if not {"model", "sample"} & set(chapters.declared(name).needs)]
    assert len(light) >= 8
    found = loaded("tokenize_dataset.py", *(f"measure_{name}.py" for name in light))
    assert not found & {"torch", "transformers", "matplotlib", "datasets"}


def test_a_job_that_finds_its_records_on_the_shelf_loads_nothing_that_computes():
    assert not loaded("extract_routing.py") & {"torch", "transformers", "xarray", "numpy", "netCDF4"}
