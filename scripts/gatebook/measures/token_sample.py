"""The tokens of a study that a chapter counts: at most so many of each dataset, whole clusters, drawn by a seed."""

import zlib

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.measures.uncertainty import sample_sizes_of
from gatebook.study.routed import windows


def counted(study: xr.Dataset, tokens: int, seed: int) -> np.ndarray:
    """Which tokens of a study (`routed.read`) count: at most so many of each dataset, (token,) int64, increasing.

    Clusters are taken whole, in a random order that depends on `seed` and the dataset's name, and the last one is cut.
    """
    cluster = study["cluster"].values[documents_of(study)]
    chosen, start = [], 0
    for index, name in enumerate(study["name"].values.tolist()):
        number = int((study["dataset"].values == index).sum())
        known, code = np.unique(cluster[start : start + number], return_inverse=True)
        turn = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(known))[code]
        chosen.append(start + np.sort(np.argsort(turn, kind="stable")[:tokens]))
        start += number
    return np.concatenate(chosen)


def spread(study: xr.Dataset, tokens: int, seed: int) -> np.ndarray:
    """Whole windows of a study that count, one of each cluster before a second one: (token,) int64, increasing.

    At most so many tokens of each dataset, but at least one window. The order depends on `seed` and the dataset's name.
    """
    window, position = windows(study)
    first = np.flatnonzero(position == 0)
    length = np.diff(first, append=len(window))
    dataset, cluster = study["dataset"].values, study["cluster"].values[documents_of(study)]
    order = in_turn(first, dataset, cluster, study["name"].values.tolist(), seed)
    chosen = np.zeros(len(first), bool)
    for index in range(study.sizes["name"]):
        mine = window[order[dataset[order] == index]]
        held = np.cumsum(length[mine]) <= tokens
        held[:1] = True
        chosen[mine[held]] = True
    return np.flatnonzero(chosen[window])


def in_turn(place: np.ndarray, dataset: np.ndarray, cluster: np.ndarray, names: list[str], seed: int) -> np.ndarray:
    """The tokens `place` in the order in which they are drawn: one of each cluster before a second one.

    Datasets take turns; the order within a dataset is random, by `seed` and the dataset's name.

    Parameters
    ----------
    place
        Of the tokens to be ordered, among those of the study: (chosen,) int64.
    dataset, cluster
        Of all tokens of the study: (token,) int64.
    names
        Of the datasets.
    seed
        Of the order.

    Returns
    -------
    numpy.ndarray
        `place` in the new order: (chosen,) int64.
    """
    chosen, turns, ranks = [], [], []
    for index, name in enumerate(names):
        mine = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(place[dataset[place] == index])
        turn = pd.Series(cluster[mine]).groupby(cluster[mine]).cumcount().to_numpy()
        order = np.argsort(turn, kind="stable")
        chosen.append(mine[order])
        turns.append(turn[order])
        ranks.append(np.arange(len(mine)))
    return np.concatenate(chosen)[np.lexsort(tuple(map(np.concatenate, (ranks, turns))))]


def documents_of(study: xr.Dataset) -> np.ndarray:
    """The document of every token of a study: (token,) int64."""
    lengths = np.diff(study["start"].values, append=study.sizes["token"])
    return np.repeat(np.arange(len(lengths)), lengths)


def sizes(study: xr.Dataset, place: np.ndarray) -> xr.Dataset:
    """`tokens`, `documents` and `clusters` (dataset,) int64 of the tokens `place` of a study, pooled first."""
    datasets, dataset = study.sizes["name"], study["dataset"].values[place]
    document = documents_of(study)[place]
    of = [np.unique(document[dataset == index]) for index in range(datasets)]
    held = np.bincount(dataset, minlength=datasets)
    found = sample_sizes_of([len(each) for each in of], [study["cluster"].values[each] for each in of])
    tokens = np.append(held.sum(), held)
    return found.assign(tokens=("dataset", tokens, {"long_name": "tokens", "units": "tokens"}))


def of_windows(study: xr.Dataset, tokens: int, per_window: int, seed: int) -> np.ndarray:
    """Tokens of a study from as many clusters as can be: at most so many of each dataset, (token,) int64, increasing.

    Parameters
    ----------
    study
        Its tokens, see `routed.read_tokens`.
    tokens
        Of each dataset, at most.
    per_window
        Of one window, at most, at random. Windows are taken in a random order, one of each cluster before a second one.
    seed
        Of the draw, with the dataset's name.

    Returns
    -------
    numpy.ndarray
    """
    start = np.flatnonzero(windows(study)[1] == 0)
    length = np.diff(start, append=study.sizes["token"])
    dataset, cluster = study["dataset"].values[start], study["cluster"].values[documents_of(study)[start]]
    chosen = []
    for index, name in enumerate(study["name"].values.tolist()):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        mine = rng.permutation(np.flatnonzero(dataset == index))
        turn = pd.Series(cluster[mine]).groupby(cluster[mine]).cumcount().to_numpy()
        drawn = [np.zeros(0, np.int64)]
        for window in mine[np.argsort(turn, kind="stable")]:
            room = min(per_window, tokens - sum(map(len, drawn)), int(length[window]))
            if not room:
                break
            drawn.append(start[window] + rng.choice(length[window], room, replace=False))
        chosen.append(np.sort(np.concatenate(drawn)))
    return np.concatenate(chosen)


def beginnings(
    tokens: xr.Dataset, among: np.ndarray, *, documents: int, length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first tokens of documents of a dataset, one document of each cluster before a second one.

    Parameters
    ----------
    tokens
        Its token file (`documents.load_tokens`).
    among
        Which documents may be drawn, (document,) bool.
    documents
        At most so many.
    length
        In tokens, at most a window; a document whose first window is shorter is left out.
    seed
        Of the draw, with the dataset's name.

    Returns
    -------
    ids : numpy.ndarray
        (text, position) int64; no text if no document is that long.
    chosen : numpy.ndarray
        Which documents they are, (text,) int64, increasing.
    """
    ids, sizes = tokens["token_id"].values, tokens["document_tokens"].values
    start, length = np.cumsum(sizes) - sizes, min(length, tokens.attrs.get("window", length))
    whole = (tokens["position"].values[np.minimum(start + length, len(ids)) - 1] == length - 1) & (sizes >= length)
    rng = np.random.default_rng([seed, zlib.crc32(tokens.attrs["dataset"].encode())])
    shuffled, cluster = rng.permutation(np.flatnonzero(whole & among)), tokens["cluster"].values
    turn = pd.Series(cluster[shuffled]).groupby(cluster[shuffled]).cumcount().to_numpy()
    chosen = np.sort(shuffled[np.argsort(turn, kind="stable")[:documents]])
    return ids[start[chosen][:, None] + np.arange(length)].astype(np.int64).reshape(-1, length), chosen
