"""Parts: a part is what one extraction reads, a whole dataset or one of its shards.

A shard is a run of whole documents. A part of a dataset in one piece has the dataset's name; the second of the eight
shards of `stories` is `stories.shard_2_of_8`. No dataset has such a name.
"""

import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gatebook.problem import Problem

if TYPE_CHECKING:
    import xarray as xr  # every job on a cluster reads this module with the Snakefile


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


def split(document_tokens: np.ndarray, shards: int) -> np.ndarray:
    """The first document of each shard, and the number of documents: (shards + 1,) int64.

    `document_tokens` (document,). The limit between two shards is the one between documents that is nearest to where it
    would be in shards of the same number of tokens, but every shard has a document. Raises ValueError if there are more
    shards than documents.
    """
    documents = len(document_tokens)
    if shards > documents:
        raise ValueError(f"{documents} documents cannot be split into {shards} shards")
    ends = np.append(0, np.cumsum(document_tokens, dtype=np.int64))
    wanted = np.arange(shards + 1) * ends[-1] / shards
    after = np.clip(np.searchsorted(ends, wanted), 1, documents)
    nearest = after - (wanted - ends[after - 1] <= ends[after] - wanted)
    number = np.arange(shards + 1)
    first = np.maximum.accumulate(nearest - number) + number  # at least a document for every shard before the limit
    return np.minimum(first, documents - shards + number)  # and for every shard after it


def take(tokens: "xr.Dataset", shard: int, shards: int) -> "xr.Dataset":
    """The tokens of one shard (from 1) of a dataset's tokens, as `inputs.tokenize` makes them.

    The attribute `first_token` says where in the dataset its first token is; documents are numbered from 0 again.
    """
    lengths = tokens["document_tokens"].values
    try:
        documents = slice(*split(lengths, shards)[shard - 1 : shard + 1].tolist())
    except ValueError:
        raise Problem(
            f"datasets.{tokens.attrs['dataset']}: {len(lengths)} documents cannot be split into {shards} shards: set "
            f"`shards` of this dataset to {len(lengths)} or fewer."
        ) from None
    first = int(lengths[: documents.start].sum())
    size = int(lengths[documents].sum())
    found = tokens.isel(document=documents, token=slice(first, first + size))
    index = found["document_index"]
    return found.assign(document_index=index - index.dtype.type(documents.start)).assign_attrs(first_token=first)
