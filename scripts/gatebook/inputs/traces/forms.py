"""The forms of traces by the endings of their files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

from pyarrow import ArrowInvalid

from gatebook.inputs.traces import arrays, lines, parquet, recorder, table
from gatebook.inputs.traces.base import Block, Wanted
from gatebook.problem import Problem

FORMS = {
    ".npz": arrays.read_npz,
    ".npy": arrays.read_npy,
    ".safetensors": arrays.read_safetensors,
    ".jsonl": lines.read,
    ".ndjson": lines.read,
    ".pt": recorder.read,
    ".csv": table.read,
}
"""By the ending of a file, what reads it; a folder is one of Parquet files."""


def read(paths: Sequence[str], wanted: Wanted) -> Iterator[tuple[int, Block]]:
    """The blocks of files or folders, one after another, each with the number of its file."""
    for number, path in enumerate(map(Path, paths)):
        try:
            yield from ((number, block) for block in _form(path, wanted)(path, wanted))
        except (BadZipFile, ArrowInvalid, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise Problem(f"{wanted.key}: {path} cannot be read ({reason}): get it again.") from error


def files(paths: Sequence[str]) -> list[Path]:
    """The files that traces consist of, in order: of a folder, all that are in it."""
    found = []
    for path in map(Path, paths):
        found += sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return found


def _form(path: Path, wanted: Wanted):
    if path.is_dir():
        if not (path / "samples").exists() or not (path / "actives").exists():
            raise Problem(f"{wanted.key}: {path} is a folder without samples/ and actives/: give one of Parquet files.")
        return parquet.read
    if path.suffix.lower() not in FORMS:
        raise Problem(
            f"{wanted.key}: {path} has the ending {path.suffix!r}: use one of {', '.join(FORMS)}, or a folder of "
            "Parquet files."
        )
    return FORMS[path.suffix.lower()]
