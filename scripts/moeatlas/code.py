"""Content hashes of scripts, so that a job runs again when its own code changed and only then."""

import ast
import hashlib
from pathlib import Path


def code_hash(script: Path, library: Path) -> str:
    """SHA-256 (first 16 hexadecimal digits) over a script and every module of `library` that it imports, transitively.

    `library` is the package folder. Comments, docstrings and formatting do not count: the syntax trees are hashed.
    """
    digest = hashlib.sha256()
    for path in sorted(_closure(script, library), key=lambda path: path.name):
        digest.update(path.name.encode())
        digest.update(ast.dump(_without_docstrings(path)).encode())
    return digest.hexdigest()[:16]


def _closure(script: Path, library: Path) -> set[Path]:
    found, waiting = set(), [script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(path, library)
    return found


def _imports(path: Path, library: Path) -> list[Path]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    files = []
    for name in names:
        parts = name.split(".")
        if parts[0] == library.name:
            module = library.joinpath(*parts[1:])
            files += [file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()]
    return files


def _without_docstrings(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
