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
    files = set()
    for package, *parts in (name.split(".") for name in _syntax(path)[1]):
        if package == library.name:
            modules = [library.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            files |= {file for module in modules for file in (module.with_suffix(".py"), module / "__init__.py")}
    return {file for file in files if file.is_file()}


def _syntax(path: Path) -> tuple[str, list[str]]:
    """The syntax tree of a file without its texts, and the names of the modules that it imports."""
    return _parsed(path.read_text(encoding="utf-8"))


@cache  # most modules count for most scripts, and every job parses the Snakefile
def _parsed(text: str) -> tuple[str, list[str]]:
    tree, names = _WithoutText().visit(ast.parse(text)), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return repr(_structure(tree)), names


def _structure(node):
    """A syntax tree as nested lists without what is empty, which some versions of Python name and others do not."""
    if isinstance(node, ast.AST):
        parts = ((name, _structure(value)) for name, value in ast.iter_fields(node))
        return [type(node).__name__, *(part for part in parts if part[1] not in (None, []))]
    return [_structure(each) for each in node] if isinstance(node, list) else node


class _WithoutText(ast.NodeTransformer):
    """Removes docstrings, those of constants too: strings that stand alone and do nothing; and the version number."""

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        return None if ast.unparse(node.targets[0]) == "__version__" else node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node
