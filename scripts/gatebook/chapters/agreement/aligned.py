"""Which tokens of two studies are the same."""

import numpy as np
import xarray as xr

from gatebook.problem import Problem
from gatebook.study import routed

NOWHERE = -1


def places(first: xr.Dataset, other: xr.Dataset, names: tuple[str, str]) -> np.ndarray:
    """The place in another study of every token of the first one, `NOWHERE` where it is not: (token,) int64.

    A token is the same if it stands at the same place of the document with the same identifier and, where the windows
    that the models saw begin, at the same place in its window: one run may have cut a document, or lack its last token.

    Parameters
    ----------
    first, other
        Studies of the same datasets, see `routed.read_tokens`.
    names
        Of the runs, for errors.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    Problem
        If a document has other token ids.
    """
    if first["dataset_sha256"].equals(other["dataset_sha256"]) and first["token_id"].equals(other["token_id"]):
        return np.arange(first.sizes["token"])
    found, known = np.full(first.sizes["token"], NOWHERE), _documents(other)
    ids, theirs = (study["token_id"].sel(kind="input").values for study in (first, other))
    positions, their_positions = (routed.windows(study)[1] for study in (first, other))
    for (dataset, document), (start, length) in _documents(first).items():
        if (dataset, document) not in known:
            continue
        begin, size = known[dataset, document]
        both = min(length, size)
        mine, same = slice(start, start + both), slice(begin, begin + both)
        if not np.array_equal(ids[mine], theirs[same]):
            raise Problem(
                f"agreement: {names[0]} and {names[1]} have other token ids in document {document} of {dataset}: "
                "compare runs over the same tokens."
            )
        found[mine] = np.where(positions[mine] == their_positions[same], np.arange(begin, begin + both), NOWHERE)
    return found


def _documents(study: xr.Dataset) -> dict[tuple[str, str], tuple[int, int]]:
    """The first token and the number of tokens of every document, by dataset and identifier."""
    starts = study["start"].values
    lengths = np.diff(starts, append=study.sizes["token"])
    datasets = np.repeat(study["name"].values, study["documents"].values)
    keys = zip(datasets.tolist(), study["document_id"].values.tolist(), strict=True)
    return dict(zip(keys, zip(starts.tolist(), lengths.tolist(), strict=True), strict=True))
