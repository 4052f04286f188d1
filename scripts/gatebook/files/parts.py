"""Parts: a part is what one extraction reads, a whole dataset or one of its shards.

A shard is a run of whole documents. A part of a dataset in one piece has the dataset's name; the second of the eight
shards of `stories` is `stories.shard_2_of_8`. No dataset has such a name.
"""

import re
from itertools import groupby
from pathlib import Path

SHELF = ".finished"
"""The folder, beside the records of parts, of parts that one job extracts for the jobs of others (see run/shelf.py)."""


def names(dataset: str, shards: int) -> list[str]:
    """The names of a dataset's parts, in order."""
    return [dataset] if shards == 1 else [f"{dataset}.shard_{shard + 1}_of_{shards}" for shard in range(shards)]


def dataset_of(part: str) -> str:
    """The dataset that a part is of."""
    return re.sub(r"[.]shard_\d+_of_\d+$", "", part)


def place_of(part: str) -> dict[str, int]:
    """Which part it is: {"shard": 2, "shards": 8}; a dataset in one piece is the first of 1."""
    shard, shards = map(int, re.findall(r"\d+", part.removeprefix(dataset_of(part))) or (1, 1))
    return {"shard": shard, "shards": shards}


def by_dataset(folders: list[str]) -> list[list[Path]]:
    """Folders named after the parts of datasets, in order: those of each dataset together."""
    return [list(map(Path, found)) for _, found in groupby(folders, lambda folder: dataset_of(Path(folder).name))]
