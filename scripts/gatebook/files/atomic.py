"""Files whole or not there at all, and room for them on the disk."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gatebook.files.sizes import format_bytes
from gatebook.problem import Problem

UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR,
)  # fmt: skip


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at a clean exit, delete it at an error."""
    with _partial(Path(path)) as partial:
        yield partial
        partial.replace(path)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; rename it to `path` at a clean exit, delete it at an error."""
    with _partial(Path(path)) as partial:
        partial.mkdir()
        yield partial
        _remove(Path(path))
        partial.replace(path)


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, making the folders above `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def check_room(path: str | Path, needed: int, remedy: str) -> None:
    """A `Problem`, with a remedy beside making room, if about `needed` bytes do not fit on the disk of `path`."""
    free = _free(Path(path))
    if needed > free:
        raise Problem(
            f"{path} would take about {format_bytes(needed)}, but {format_bytes(free)} are free on that disk: make "
            f"room, or {remedy}."
        )


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that is this job's own; what killed jobs left there is deleted first."""
    # No name of a model, checkpoint or dataset holds "~": the pattern below never matches another output's file.
    partial = path.with_name(f".{path.name}~{socket.gethostname()}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}~*.partial"):
            _remove(stale)
        try:
            yield partial
        finally:
            _remove(partial)
    except (OSError, RuntimeError) as error:
        known = getattr(error, "errno", None) in UNWRITABLE
        if not known and not str(error).startswith("NetCDF: HDF"):
            raise
        reason = os.strerror(error.errno) if known else error
        raise Problem(
            f"{path} cannot be written ({reason}; {format_bytes(_free(path))} free on that disk): make room or make it "
            "writable, then run again."
        ) from error


def _free(path: Path) -> int:
    """Bytes free on the disk where `path` is, or will be written."""
    return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.exists())).free


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
