"""The shards of a dataset: runs of whole documents with about as many tokens each."""

import numpy as np
import xarray as xr

from gatebook.problem import Problem


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


def take(tokens: xr.Dataset, shard: int, shards: int) -> xr.Dataset:
    """The tokens of one shard (from 1) of a dataset's tokens, as `documents.tokenize` makes them.

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
