"""The tokens of a study that a chapter counts: at most so many of each dataset, whole clusters, drawn by a seed."""

import zlib

import numpy as np
import xarray as xr

from gatebook.measures.uncertainty import sample_sizes_of


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
