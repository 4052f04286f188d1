"""Functions with many parameters say what each of them is, in the numpydoc form."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import gatebook

FOLDER = Path(gatebook.__file__).parent
MANY = 5


def public_functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Public functions and methods, but none inside a function or a private class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            if isinstance(child, ast.FunctionDef):
                yield child
            else:
                yield from public_functions(child)


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names of its parameters, with the stars of those that take any number, without `self`."""
    named = function.args
    stars = [f"{star}{arg.arg}" for star, arg in (("*", named.vararg), ("**", named.kwarg)) if arg]
    names = [arg.arg for arg in (*named.posonlyargs, *named.args, *named.kwonlyargs)] + stars
    return [name for name in names if name not in ("self", "cls")]


def sections(docstring: str) -> dict[str, str]:
    """The sections of a docstring by title."""
    _, *parts = re.split(r"^(\w+)\n-{3,}$", docstring, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def faults(source: str) -> list[str]:
    """What the docstrings of a module lack."""
    found = []
    for function in public_functions(ast.parse(source)):
        names = parameters(function)
        if len(names) < MANY:
            continue
        have = sections(ast.get_docstring(function) or "")
        described = [
            name.strip()
            for line in re.findall(r"^\S.*", have.get("Parameters", ""), flags=re.MULTILINE)
            for name in line.split(":")[0].split(",")
        ]
        if sorted(described) != sorted(names):
            found.append(f"{function.name}: parameters {names}, described are {described}")
        returns_none = isinstance(function.returns, ast.Constant) and function.returns.value is None
        if returns_none == bool(have.keys() & {"Returns", "Yields"}):
            found.append(f"{function.name}: Returns")
    return found


def test_every_parameter_and_what_is_returned_is_described():
    found = {path.relative_to(FOLDER): faults(path.read_text(encoding="utf-8")) for path in FOLDER.rglob("*.py")}
    assert {str(path): lacking for path, lacking in found.items() if lacking} == {}


def test_a_docstring_without_sections_is_a_fault():
    assert faults('def f(a, b, *, c, d, **e):\n    """Everything."""') == [
        "f: parameters ['a', 'b', 'c', 'd', '**e'], described are []",
        "f: Returns",
    ]
    assert faults('def f(a, b, c, d):\n    """Few."""\ndef _f(a, b, c, d, e): ...') == []
