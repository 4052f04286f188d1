"""Documents dealt out to the datasets at random: the null of what compares datasets."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from gatebook.measures.uncertainty import Resampling, _by_identifier


@dataclass(frozen=True)
class Permutation(Resampling):
    """One dataset's documents where all documents are dealt out to the datasets at random, see `permute`.

    `weights` (1 + permutations, documents) holds the index of the dataset that each document is dealt to, `index` is
    this dataset's. Draw 0 is the study as it is.
    """

    index: int

    def _times(self, part: slice) -> np.ndarray:
        return self.weights[:, part] == self.index


def permute(tallies: dict[str, xr.Dataset], permutations: int, seed: int) -> dict[str, Permutation]:
    """The documents of all datasets dealt out to the datasets at random, for `dataset_draws`.

    Every dataset keeps its number of documents and every document its tokens. The sums are taken over all documents,
    in the order of the datasets: give `dataset_draws` the tally of all documents under the name of each dataset. The
    order of documents within a dataset does not matter.
    """
    sizes = [tally.sizes["document"] for tally in tallies.values()]
    starts = np.cumsum(sizes) - sizes
    within = [_by_identifier(tally) for tally in tallies.values()]
    order = np.concatenate([start + inside for start, inside in zip(starts, within, strict=True)])
    dealt = np.empty((1 + permutations, len(order)), dtype=np.uint16)
    dealt[:] = np.repeat(np.arange(len(sizes)), sizes)
    dealt[1:] = np.random.default_rng(seed).permuted(dealt[1:], axis=1)
    return {name: Permutation(dealt, order, index) for index, name in enumerate(tallies)}
