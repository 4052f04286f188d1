"""The user's own pairs: files of JSON lines."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from gatebook.inputs.sources.base import listed
from gatebook.inputs.tasks import base
from gatebook.problem import Problem

KEYS = ("clean", "corrupt", "right", "wrong")


class Tasks(base.Tasks):
    """Pairs in files of this machine: lines with the keys `KEYS`, and `source` for pairs that share one."""

    required, optional = ("files",), ("pairs",)

    def files(self, task: dict, config: dict) -> list[str]:
        """See `base.Tasks`."""
        return task["files"]

    def local_paths(self, task: dict) -> dict[str, str]:
        """See `base.Tasks`."""
        return listed("files", task["files"])

    def pairs(self, name: str, task: dict, tokenizer, files: Sequence[str]) -> list[base.Pair]:
        """See `base.Tasks`: all of the files, or the first `pairs`; one without `source` is one by itself."""
        found = []
        for place, row in _rows(name, files):
            if len(found) == task.get("pairs"):
                break
            for key in (*KEYS, "source"):
                text = row.get(key, "" if key in KEYS else place)
                if not isinstance(text, str) or not text:
                    raise Problem(f"{place}: {key} is {text!r}: write a text, as pairs have {', '.join(KEYS)}.")
            texts = {key: row[key] for key in KEYS}
            found.append(base.of_texts(place, tokenizer, **texts, source=row.get("source", place)))
        if not found:
            raise Problem(f"tasks.{name}: {', '.join(files)} hold no pair: write lines of JSON with {', '.join(KEYS)}.")
        return found

    def title(self, task: dict) -> str:
        """See `base.Tasks`."""
        return ", ".join(Path(file).name for file in task["files"])


def _rows(name: str, files: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """The lines of files that are not empty, each with its place."""
    for file in files:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Problem(f"tasks.{name}: {file} cannot be read as UTF-8 ({error}): mend the file.") from None
        for number, line in enumerate(lines, 1):
            place = f"tasks.{name}: {file}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise Problem(f"{place} is not JSON ({error.msg}): mend the line.") from None
            if not isinstance(row, dict):
                raise Problem(f"{place} is no mapping: write one with {', '.join(KEYS)}.")
            yield place, row
