"""Content hashes of scripts, so that a job runs again when its own code changed and only then."""

import ast
import hashlib
from pathlib import Path


def code_hash(script: Path, library: Path) -> str:
    """SHA-256 (first 16 hexadecimal digits) over a script and every module of `library` that it imports, transitively.

    `library` is the package folder. Comments, docstrings, formatting and
    `__version__` do not count: the syntax trees are hashed.
    Where the files lie does not count either: they are told apart by their place in the library.
    """
    digest = hashlib.sha256(ast.dump(_tree(script)).encode())
    for path in sorted(_closure(script, library) - {script}):
        digest.update(path.relative_to(library).as_posix().encode())
        digest.update(ast.dump(_tree(path)).encode())
    return digest.hexdigest()[:16]


def _closure(script: Path, library: Path) -> set[Path]:
    found, waiting = set(), [script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(path, library)
    return found


def _imports(path: Path, library: Path) -> set[Path]:
    """Files of the modules that a file imports, and of the packages around them."""
    names = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    files = set()
    for package, *parts in (name.split(".") for name in names):
        if package == library.name:
            modules = [library.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            files |= {file for module in modules for file in (module.with_suffix(".py"), module / "__init__.py")}
    return {file for file in files if file.is_file()}


def _tree(path: Path) -> ast.Module:
    return _WithoutText().visit(ast.parse(path.read_text(encoding="utf-8")))


class _WithoutText(ast.NodeTransformer):
    """Removes docstrings, those of constants too: strings that stand alone and do nothing; and the version number."""

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        return None if ast.unparse(node.targets[0]) == "__version__" else node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node
