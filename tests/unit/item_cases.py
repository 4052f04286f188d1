"""Made-up items of MMLU, written in both of the layouts in which it is published."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gatebook.inputs.items import LETTERS, SPLITS, Item

SUBJECTS = {"abstract_algebra": "ring", "world_religions": "temple"}
COUNTS = {"test": 9, "validation": 3, "dev": 2}


def items_of(split: str, subjects: dict[str, str] = SUBJECTS, count: int | None = None) -> list[Item]:
    """Items whose texts have quotes, commas and line breaks, as some of MMLU do."""
    rng, made = np.random.default_rng(len(split)), []
    for subject, word in subjects.items():
        for number in range(count or COUNTS[split]):
            question = f'Which "{word}", {number},\nhas {rng.integers(10, 99)} eggs?'
            choices = tuple(f"{word} {letter}, {rng.integers(10, 99)}" for letter in "wxyz")
            made.append(Item(subject, question, choices, int(rng.integers(4))))
    return made


def write_hub(folder: Path, splits: dict[str, list[Item]], whole: bool = True) -> Path:
    """Parquet files in the layout of cais/mmlu: one of all subjects, or a folder for each."""
    for split, items in splits.items():
        for subject in ["all"] if whole else sorted({item.subject for item in items}):
            mine = [item for item in items if subject in ("all", item.subject)]
            rows = [
                {"question": one.question, "subject": one.subject, "choices": list(one.choices), "answer": one.right}
                for one in mine
            ]
            (folder / subject).mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / subject / f"{split}-00000-of-00001.parquet")
    return folder


def write_archive(folder: Path, splits: dict[str, list[Item]]) -> Path:
    """CSV files in the layout of the archive; beside them the same as a tar."""
    for split, items in splits.items():
        place = folder / "data" / SPLITS[split]
        place.mkdir(parents=True)
        for subject in sorted({item.subject for item in items}):
            text = io.StringIO(newline="")
            rows = [(one.question, *one.choices, LETTERS[one.right]) for one in items if one.subject == subject]
            csv.writer(text, lineterminator="\n").writerows(rows)
            (place / f"{subject}_{SPLITS[split]}.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    with tarfile.open(folder / "data.tar", "w") as archive:
        archive.add(folder / "data", "data")
    return folder
