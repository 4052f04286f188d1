"""Content hashes of scripts, so that a job runs again when its own code changed and only then."""

import ast
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def code_hash(script: Path, library: Path, also: Sequence[str] = (), ignored: Sequence[str] = ()) -> str:
    """SHA-256 (first 16 hexadecimal digits) over a script and every module of `library` that it imports, transitively.

    `library` is the package folder. `also` are modules of it that the script imports by a name made up at run time, as
    paths below it; the subpackages `ignored` do not count. Comments, docstrings, formatting and
    `__version__` do not count: the syntax trees are hashed. Nor does it count where the files lie, which are told apart
    by their place in the library, or which version of Python runs.
    """
    digest = hashlib.sha256(_syntax(script)[0].encode())
    for path in closure(script, library, also, ignored):
        digest.update(path.relative_to(library).as_posix().encode())
        digest.update(_syntax(path)[0].encode())
    return digest.hexdigest()[:16]


def closure(script: Path, library: Path, also: Sequence[str] = (), ignored: Sequence[str] = ()) -> list[Path]:
    """The modules of the `library` that count in `code_hash`, sorted."""
    found, waiting = set(), [script, *(library / module for module in also)]
    while waiting:
        path = waiting.pop()
        if path not in found and not any(path.is_relative_to(library / package) for package in ignored):
            found.add(path)
            waiting += _imports(path, library)
    return sorted(found - {script})


def _imports(path: Path, library: Path) -> set[Path]:
    """Files of the modules that a file imports, and of the packages around them."""
    return _files(tuple(_syntax(path)[1]), library)


@cache
def _files(names: tuple[str, ...], library: Path) -> set[Path]:
    """Files of modules by their names, and of the packages around them."""
    files = set()
    for package, *parts in (name.split(".") for name in names):
        if package == library.name:
            modules = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
            files |= {"__init__.py", *(f"{module}{end}" for module in modules for end in (".py", "/__init__.py"))}
    return {path for path in map(library.joinpath, files) if path.is_file()}


def _syntax(path: Path) -> tuple[str, list[str]]:
    """The syntax tree of a file without its texts, and the names of the modules that it imports."""
    return _parsed(path.read_text(encoding="utf-8"))


@cache  # most modules count for most scripts, and every job on a cluster parses the Snakefile
def _parsed(text: str) -> tuple[str, list[str]]:
    """The syntax tree of a text without what is empty, which some versions of Python name and others do not."""
    words, names = [], []

    def write(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.extend([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        words.append(type(node).__name__)
        for field in node._fields:
            value = getattr(node, field, None)
            if value is None or value == [] or field == "ctx":  # which follows from where a name stands
                continue
            words.append(field)
            for each in value if isinstance(value, list) else [value]:
                if not isinstance(each, ast.AST):
                    words.append(repr(each))
                elif not _does_nothing(each):
                    write(each)
        words.append(".")

    write(ast.parse(text))
    return " ".join(words), names


def _does_nothing(node: ast.AST) -> bool:
    """Whether a statement is a docstring, of constants too: a string that stands alone; or the version number."""
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__version__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
