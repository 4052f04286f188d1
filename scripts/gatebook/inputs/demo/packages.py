"""Text in installed packages: files found by name, and what Python files say besides code."""

import ast
import functools
import hashlib
import inspect
import re
from collections.abc import Iterator
from importlib import metadata

from gatebook.problem import Problem

SIMPLE = (ast.Expr, ast.Assign, ast.Return)
"""Statements without statements in them, the most frequent ones."""
REMEDY = "install the pinned requirements of this study again"


def order(name: str) -> str:
    """Sort key that shuffles names the same way everywhere: the SHA-256 of the name."""
    return hashlib.sha256(name.encode()).hexdigest()


def texts(patterns: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(name, text) of the files whose path fully matches a package's regular expression, in hash order of the names.

    `patterns` maps package to expression; paths and names are those of the package's file list, for instance
    `numpy/linalg/_linalg.py`; names are without the version that metadata folders bear. Files that are not UTF-8 are
    left out.
    Raises `Problem` when a package is not installed or has no such file.
    """
    found = {}
    for package, pattern in patterns.items():
        matches = [file for file in installed_files(package) if re.fullmatch(pattern, file.as_posix())]
        if not matches:
            raise Problem(f"Package {package} has no file that matches {pattern!r}: {REMEDY}.")
        found |= {re.sub(r"-[^/]+\.dist-info/", "/", file.as_posix()): file.locate() for file in matches}
    for name in sorted(found, key=order):
        try:
            text = found[name].read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        except OSError as error:
            raise Problem(f"{found[name]} cannot be read ({error}): {REMEDY}.") from error
        yield name, text.expandtabs(4)


@functools.cache  # several domains read the same packages
def installed_files(package: str) -> list[metadata.PackagePath]:
    """The file list of an installed package; raises `Problem` when there is none."""
    try:
        files = metadata.distribution(package).files
    except metadata.PackageNotFoundError:
        files = None
    if not files:
        raise Problem(f"Package {package} is not installed with its file list: {REMEDY}.")
    return files


def description(package: str) -> str:
    """The long description of an installed package, as its authors publish it (Markdown or reStructuredText)."""
    installed_files(package)
    fields = metadata.metadata(package)
    return (fields.get_payload() or fields.get("Description", "")).expandtabs(4)


def paragraphs(text: str) -> list[str]:
    """Runs of lines between blank lines, each with its closing line break and the blank lines after it."""
    return re.findall(r"(?:[^\S\n]*\S.*\n)+\n*", text.strip("\n") + "\n")


@functools.lru_cache(maxsize=4096)  # several domains read the same files, and parsing is most of the work
def docstrings(source: str) -> list[str]:
    """Docstrings of a Python source, without their indentation, in the order of the file."""
    return [inspect.cleandoc(node.value) for node in _docstring_nodes(ast.parse(source))]


def without_docstrings(source: str) -> str:
    """A Python source without its docstrings."""
    lines = source.split("\n")
    dropped = {
        number for node in _docstring_nodes(ast.parse(source)) for number in range(node.lineno, node.end_lineno + 1)
    }
    return "\n".join(line for number, line in enumerate(lines, start=1) if number not in dropped)


def _docstring_nodes(tree: ast.Module) -> list[ast.Constant]:
    found, waiting = [], [tree]
    while waiting:  # of statements alone: no expression holds a docstring
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.append(first.value)
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += [each for each in getattr(node, field, ()) if not isinstance(each, SIMPLE)]
    return sorted((node for node in found if isinstance(node.value, str)), key=lambda node: node.lineno)
