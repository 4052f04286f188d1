"""Items: multiple-choice questions of MMLU, in both layouts in which it is published.

The hub (`cais/mmlu`): Parquet files `all/test-00000-of-00001.parquet`, or one folder for each subject, with the columns
question, subject, choices (four) and answer (0 to 3). The original archive: `data/test/<subject>_test.csv` without
header, with the cells question, A, B, C, D and the letter, as a folder or as the tar that it comes in. Splits are test,
dev, and validation, which the archive calls val. Both are read to the same items, subjects in alphabetical order.
"""

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gatebook.inputs import rows
from gatebook.inputs.templates import Column
from gatebook.problem import Problem

LETTERS = "ABCD"
SPLITS = {"test": "test", "validation": "val", "dev": "dev"}
"""Names of the splits: those of the hub, and those of the archive."""
KEY = "multiple_choice.path"
COLUMNS = ("question", "subject", "choices", "answer")
PASSAGE = 200
"""So many characters before the last paragraph of a question are a passage, which several questions may be about."""


class Item(NamedTuple):
    """A question: its subject, its text, the texts of its answers, and which one is right, from 0.

    source: names what it shares with other items, a passage that they all are about; its own text if it has none.
    """

    subject: str
    question: str
    choices: tuple[str, ...]
    right: int

    @property
    def source(self) -> str:
        """See the class: items of one source are not independent."""
        passage = self.question.rstrip().rpartition("\n")[0].strip()
        return passage if len(passage) >= PASSAGE else self.question


def read(path: str, split: str) -> list[Item]:
    """The items of a split, in either layout, by subject and in the order of the files.

    Parameters
    ----------
    path
        A folder in one of the layouts, or a tar of the archive.
    split
        A key of `SPLITS`.

    Returns
    -------
    list[Item]

    Raises
    ------
    Problem
        If there is no such split, or a row is no item: it names the file and the row.
    """
    found = list(_parquet(path, split) if Path(path).is_dir() else ()) or list(_archive(path, split))
    if not found:
        raise Problem(
            f"{KEY}: {path} has no items of the split {split}: it must hold all/{split}-*.parquet, as cais/mmlu on the "
            f"hub, or {SPLITS[split]}/<subject>_{SPLITS[split]}.csv, as the archive of MMLU."
        )
    return sorted(found, key=lambda item: item.subject)


def _parquet(path: str, split: str) -> Iterator[Item]:
    """The items of Parquet files of the hub; those of `all`, if it is there, which hold every subject."""
    files = sorted(Path(path).rglob(f"{split}-*.parquet"))
    of_all = [file for file in files if file.parent.name == "all"]
    wanted = [Column(name) for name in COLUMNS]
    for row in rows.read(KEY, [str(file) for file in of_all or files], wanted):
        question, subject, choices, right = (row.columns[name] for name in COLUMNS)
        if not isinstance(choices, list):
            raise Problem(f"{KEY}: {row.place}: choices is {choices!r}: write a list of four answers.")
        yield _item(row.place, subject, question, choices, right)


def _archive(path: str, split: str) -> Iterator[Item]:
    """The items of the CSV files of the archive."""
    ending = f"_{SPLITS[split]}.csv"
    for place, content in _contents(path, ending):
        subject = Path(place).name.removesuffix(ending)
        try:
            lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
            for number, cells in enumerate(lines, 1):
                if len(cells) != 6:
                    raise Problem(
                        f"{KEY}: {place}, row {number} has {len(cells)} cells: write question, A, B, C, D and the "
                        "letter of the right answer."
                    )
                letter = cells[5].strip()
                right = LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else letter
                yield _item(f"{place}, row {number}", subject, cells[0], cells[1:5], right)
        except (UnicodeDecodeError, csv.Error) as error:
            raise Problem(f"{KEY}: {place} cannot be read as CSV in UTF-8 ({error}): mend the file.") from None


def _contents(path: str, ending: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files with an ending, in a folder or a tar, in the order of the alphabet."""
    if Path(path).is_dir():
        yield from ((str(file), file.read_bytes()) for file in sorted(Path(path).rglob(f"*{ending}")))
        return
    try:
        with tarfile.open(path) as archive:
            members = [each for each in archive.getmembers() if each.isfile() and each.name.endswith(ending)]
            for member in sorted(members, key=lambda each: each.name):
                yield f"{path}, {member.name}", archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Problem(
            f"{KEY}: {path} cannot be read as a tar ({error}): correct the path, or fetch it again."
        ) from None


def _item(place: str, subject, question, choices: list, right) -> Item:
    """An item of the parts of a row; a `Problem` if they are none."""
    texts = {"subject": subject, "question": question} | {f"answer {LETTERS[i]}": c for i, c in enumerate(choices[:4])}
    if len(choices) != len(LETTERS):
        raise Problem(f"{KEY}: {place} has {len(choices)} answers: write four.")
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise Problem(f"{KEY}: {place}: the {name} is {text!r}: write a text, or remove the row.")
    if not isinstance(right, int) or not 0 <= right < len(LETTERS):
        raise Problem(f"{KEY}: {place}: the right answer is {right!r}: write 0 to 3 in Parquet, A to D in CSV.")
    return Item(subject, question, tuple(choices), right)
