"""Small changes to a module of the library that its tests do not notice: a development tool, run by hand.

python tests/mutants.py routing/rule.py tests/unit/test_rule.py --lines 120 140
"""

import argparse
import ast
import copy
import importlib
import os
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import SourceFileLoader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import numba
import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "scripts" / "gatebook"
HEAVY = ("numpy", "scipy.stats", "xarray", "pandas", "torch", "transformers", "hypothesis", "matplotlib.figure")
"""Imported once, before the tests of each mutant run in a process that is forked."""
LIMIT = 300
"""Seconds until a mutant that does not end counts as noticed."""
SWAPS = [
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.In, ast.NotIn),
    (ast.Is, ast.IsNot),
    (ast.And, ast.Or),
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.BitAnd, ast.BitOr),
    (ast.LShift, ast.RShift),
]
OTHER = {one: other for pair in SWAPS for one, other in (pair, pair[::-1])}
OTHER |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.USub: ast.UAdd, ast.Not: ast.UAdd}


def code_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are run: all but annotations."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ("annotation", "returns"):
                yield child
                yield from code_nodes(child)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Other forms of a node: an operator or a number that is not the same."""
    for index, operator in enumerate(getattr(node, "ops", [])):
        if type(operator) in OTHER:
            other = copy.copy(node)
            other.ops = [*node.ops[:index], OTHER[type(operator)](), *node.ops[index + 1 :]]
            yield other
    if type(getattr(node, "op", None)) in OTHER:
        other = copy.copy(node)
        other.op = OTHER[type(node.op)]()
        yield other
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        other = copy.copy(node)
        other.value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield other


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """Each change of a module: its line, what it is, and the whole."""
    tree = ast.parse(source)
    for node in list(code_nodes(tree)):
        for other in changes(node):
            words, kept = f"{ast.unparse(node)}  ->  {ast.unparse(other)}", node.__dict__.copy()
            node.__dict__.update(other.__dict__)
            yield node.lineno, words, tree
            node.__dict__.update(kept)


def passes(module: str, tree: ast.Module, tests: list[str]) -> bool:
    """Whether the tests pass with `tree` as the module."""
    with TemporaryDirectory() as compiled:  # nothing that was compiled from the module without a change
        child = os.fork()
        if not child:
            numba.config.CACHE_DIR = compiled
            _test(module, tree, tests)
        return os.waitpid(child, 0)[1] == 0


def _test(module: str, tree: ast.Module, tests: list[str]) -> NoReturn:
    """Run the tests with `tree` as the module, and end this process."""
    signal.alarm(LIMIT)
    known = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda loader, name: (
        compile(tree, loader.path, "exec") if name == module else known(loader, name)
    )
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):  # noqa: PTH123
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def main() -> None:
    """Print the mutants that pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="a module below scripts/gatebook, such as routing/rule.py")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--lines", nargs=2, type=int, default=(0, 10**9), metavar=("FIRST", "LAST"))
    given = parser.parse_args()
    os.chdir(ROOT)
    for name in HEAVY:
        importlib.import_module(name)
    source = (LIBRARY / given.path).read_text(encoding="utf-8")
    module = ".".join(("gatebook", *Path(given.path).with_suffix("").parts))
    assert passes(module, ast.parse(source), given.tests), "the tests fail without a change"
    tried, first, last = 0, *given.lines
    for line, words, tree in mutants(source):
        if first <= line <= last:
            tried += 1
            if passes(module, tree, given.tests):
                print(f"{given.path}:{line}: {words}", flush=True)
    print(f"{tried} mutants")


if __name__ == "__main__":
    main()
