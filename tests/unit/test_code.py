"""The hash of a script changes with every line of code that it runs, and with nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatebook.run import code
from gatebook.run.code import code_hash

ROOT = Path(__file__).parents[2]
FILES = {
    "measure.py": '"""A script."""\nfrom lib import a\nfrom lib.demo import corpora\nprint(a.x, corpora.y)\n',
    "lib/__init__.py": "",
    "lib/a.py": "from lib.b import y\nx = y\n",
    "lib/b.py": "import lib.pages.frequency\ny = 1\n",
    "lib/frequency.py": "z = 0\n",
    "lib/unrelated.py": "z = 1\n",
    "lib/demo/__init__.py": "",
    "lib/demo/corpora.py": "def y():\n    from lib import lazy\n    return lazy\n",
    "lib/lazy.py": "q = 1\n",
    "lib/pages/__init__.py": '"""Pages."""\n',
    "lib/pages/frequency.py": "z = 2\n",
}


@pytest.fixture
def tree(tmp_path):
    """A script and a library of its own, as code that may be changed."""

    def make(**changes) -> str:
        for name, text in (FILES | changes).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return code_hash(tmp_path / "measure.py", tmp_path / "lib")

    return make


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("lib/unrelated.py", "lib/frequency.py")])
def test_code_of_the_script_and_of_what_it_imports_counts(tree, name):
    assert tree() != tree(**{name: FILES[name] + "new = 1\n"})


@pytest.mark.parametrize("name", ["lib/unrelated.py", "lib/frequency.py"])
def test_code_that_is_not_imported_does_not_count(tree, name):
    assert tree() == tree(**{name: "changed = 1\n"})


def test_a_new_import_counts_what_it_brings(tree):
    first = tree(**{"lib/b.py": "import lib.unrelated\ny = 1\n"})
    assert first != tree()
    assert first != tree(**{"lib/b.py": "import lib.unrelated\ny = 1\n", "lib/unrelated.py": "z = 5\n"})


def test_comments_docstrings_and_formatting_do_not_count(tree):
    before = tree()
    after = tree(
        **{
            "measure.py": '"""Other."""\nfrom lib import (a,)\nfrom lib.demo import corpora\n\nprint(a.x, corpora.y)',
            "lib/a.py": '# why\nfrom lib.b import y  # here\n\nx = (y)\n"""What x is."""\n',
            "lib/demo/corpora.py": 'def y():\n    """Text."""\n    from lib import lazy\n\n    return lazy\n',
        }
    )
    assert before == after


def test_the_version_number_does_not_count(tree):
    assert tree(**{"lib/b.py": '__version__ = "1"\ny = 1\n'}) == tree(**{"lib/b.py": '__version__ = "2"\ny = 1\n'})


def test_a_function_with_only_a_docstring_has_a_hash(tree):
    assert tree(**{"lib/a.py": 'class Error(Exception):\n    """Text."""\n'}) != tree()


def test_two_modules_of_one_name_that_swap_their_code_count(tree):
    both = {"lib/b.py": "import lib.pages.frequency, lib.frequency\ny = 1\n"}
    swapped = {"lib/frequency.py": "z = 2\n", "lib/pages/frequency.py": "z = 0\n"}
    assert tree(**both) != tree(**both | swapped)


def test_the_hash_is_the_same_in_every_process_and_place(tree, tmp_path):
    here = tree(**{"lib/b.py": "import lib.pages.frequency, lib.frequency\ny = 1\n"})
    other = tmp_path / "z" / "elsewhere"
    (tmp_path / "z").mkdir()
    (tmp_path / "lib").rename(tmp_path / "z" / "lib")
    other.mkdir()
    (tmp_path / "measure.py").rename(other / "measure.py")
    script = "import sys; from pathlib import Path; from gatebook.run.code import code_hash\n"
    script += "print(code_hash(Path(sys.argv[1]), Path(sys.argv[2])))"
    for seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "scripts")}
        command = [sys.executable, "-c", script, str(other / "measure.py"), str(tmp_path / "z" / "lib")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


def test_modules_imported_by_a_name_made_up_at_run_time_are_named_and_count(tree, tmp_path):
    def made(**changes):
        tree(**changes)
        return code_hash(tmp_path / "measure.py", tmp_path / "lib", ["unrelated.py"])

    assert made() != tree()
    assert made() != made(**{"lib/unrelated.py": "from lib import frequency\n"})
    assert made(**{"lib/unrelated.py": "from lib import frequency\n"}) != made(**{"lib/frequency.py": "z = 9\n"})


def test_packages_that_change_no_result_do_not_count(tree, tmp_path):
    def made(**changes):
        tree(**changes)
        return code_hash(tmp_path / "measure.py", tmp_path / "lib", ignored=["demo"])

    assert made() == made(**{"lib/demo/corpora.py": "def y(): return 1\n", "lib/lazy.py": "q = 2\n"})
    assert code.closure(tmp_path / "measure.py", tmp_path / "lib", ignored=["demo"]) == [
        tmp_path / "lib" / name for name in ("__init__.py", "a.py", "b.py", "pages/__init__.py", "pages/frequency.py")
    ]
    assert made() != made(**{"lib/a.py": "x = 2\n"})
