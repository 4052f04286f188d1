"""Results of version 0.1 stand while the code that made them computes the same; how a run is recorded changes none."""

import ast
import re

import pytest
from studies import ROOT

from gatebook.run.code import closure, code_hash
from gatebook.run.metadata import ADOPTED

LIBRARY = ROOT / "scripts" / "gatebook"
RULES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
HASHED = dict(re.findall(r'(?:code|content_of)\("(\w+\.py)"(.*)\),$', RULES, flags=re.MULTILINE))
"""Every script whose hash is a parameter of its rule, and what else is said of the hash."""


@pytest.mark.parametrize("script", ADOPTED)
def test_the_code_that_stands_for_that_of_version_0_1_is_the_code_of_today(script):
    today, *before = ADOPTED[script]
    assert len({today, *before}) == 4 and script in HASHED
    found = code_hash(ROOT / "scripts" / script, LIBRARY, ignored=("run",))
    assert today == found, (
        f"{script} was edited. If it still computes what version 0.1 did, write its new hash, {found}, into ADOPTED; "
        "else remove its line: results of 0.1 are then made again."
    )


def test_every_rule_with_a_script_has_its_hash_but_the_one_that_writes_nothing():
    scripts = set(re.findall(r'"../scripts/(\w+\.py)"', RULES))
    assert scripts - HASHED.keys() == {"verify_results.py"}


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(name for name, more in HASHED.items() if "run=True" not in more))
def test_a_script_whose_hash_leaves_out_run_uses_nothing_of_it_that_makes_results(script):
    """So what is in gatebook/run can change without a change to what the script writes."""
    path, used = ROOT / "scripts" / script, set()
    pages = LIBRARY.glob("chapters/*/page.py") if "page.py" in HASHED[script] else []
    for file in [path, *closure(path, LIBRARY, [page.relative_to(LIBRARY) for page in pages], ignored=("run",))]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gatebook.run."):
                used.add(f"{file.name}: {ast.unparse(node)}")
            elif isinstance(node, ast.ImportFrom) and node.module == "gatebook.run":
                names |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names if alias.name.startswith("gatebook.run")}
        used |= {
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
        }
    shelf = {"shelf.extract", "shelf.Extract"} if script == "extract_routing.py" else set()
    name_of_a_file = {"tallied.py: from gatebook.run.code import code_hash"}
    known = {"job.start", "job.log", "job.progress", "job.interval", "job.without_torch"} | name_of_a_file
    assert used <= known | shelf
