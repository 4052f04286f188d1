"""Clusters dealt out to the datasets at random: the null of what compares datasets."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from gatebook.measures.uncertainty import POOLED, cluster_keys, cluster_sums


@dataclass(frozen=True)
class Dealing:
    """All clusters of a study dealt out to its datasets at random, see `deal`.

    names: of the datasets. item (document,) int: which item each document belongs to, the documents of all datasets one
    after another; an item is what one dataset has of one cluster. dealt (1 + permutations, item) uint16: the index of
    the dataset that each item is dealt to; draw 0 is the study as it is.
    """

    names: list[str]
    item: np.ndarray
    dealt: np.ndarray

    def of_items(self, parts: dict[str, xr.Dataset], name: str) -> xr.DataArray:
        """Sums of a variable over the documents of each item: (item, ...) float64."""
        array = xr.concat([parts[each][name] for each in self.names], "document", join="exact", coords="minimal")
        array = array.transpose("document", ...)
        sums = cluster_sums(array.values, self.item, self.dealt.shape[1]).reshape(-1, *array.shape[1:])
        coords = {dim: array[dim] for dim in array.dims[1:] if dim in array.coords}
        return xr.DataArray(sums, coords, ("item", *array.dims[1:]))

    def sums(self, items: xr.DataArray, index: int) -> np.ndarray:
        """Sums of values (item, ...) over what is dealt to the dataset `index`, in every draw: (draw, ...) float64."""
        held = (self.dealt == index).astype(np.float64)
        return (held @ items.values.reshape(len(items), -1)).reshape(-1, *items.shape[1:])


def deal(tallies: dict[str, xr.Dataset], permutations: int, seed: int) -> Dealing:
    """The clusters of all datasets dealt out to the datasets at random.

    Every dataset keeps its number of clusters, and every cluster its documents and tokens. What paired datasets have of
    the same cluster goes to the same dataset; the numbers are then kept as nearly as that allows. The order of the
    documents does not matter.
    """
    keys = [cluster_keys(tally, name) for name, tally in tallies.items()]
    known = np.unique(np.concatenate(keys))
    pairs = np.concatenate(
        [index * len(known) + np.searchsorted(known, each) for index, each in enumerate(keys)], dtype=np.int64
    )
    items, item = np.unique(pairs, return_inverse=True)
    dataset, unit = np.divmod(items, len(known))
    dealt = np.empty((1 + permutations, len(items)), dtype=np.uint16)
    dealt[0] = dataset
    rng = np.random.default_rng(seed)
    for draw in range(1, 1 + permutations):
        order = np.argsort(rng.permutation(len(known))[unit], kind="stable")
        of_unit = np.empty(len(known), dtype=np.uint16)
        of_unit[unit[order[::-1]]] = dataset[::-1]  # where the first item of a cluster lies, the others follow it
        dealt[draw] = of_unit[unit]
    return Dealing(list(tallies), item, dealt)


def dealt_draws(parts: dict[str, xr.Dataset], names: list[str], dealing: Dealing) -> xr.Dataset:
    """Sums of the variables `names` as `uncertainty.dataset_draws` gives them, but of what is dealt to each dataset."""
    draws = {}
    for name in names:
        items = dealing.of_items(parts, name)
        sums = np.stack([dealing.sums(items, index) for index in range(len(dealing.names))])
        draws[name] = xr.DataArray(
            np.concatenate([sums.sum(axis=0, keepdims=True), sums]),
            items.coords | {"dataset": [POOLED, *dealing.names]},
            ("dataset", "draw", *items.dims[1:]),
        )
    return xr.Dataset(draws)


def studentised(count: xr.DataArray, tokens: xr.DataArray, dealing: Dealing) -> xr.DataArray:
    """How far each dataset's share is from the mean share of the others, in standard errors, in every draw.

    Parameters
    ----------
    count
        What is counted, (item, ...), see `Dealing.of_items`.
    tokens
        Of which it is a share, (item,).
    dealing
        The draws.

    Returns
    -------
    xarray.DataArray
        (dataset, draw, ...) float64. The error is that between clusters: of a ratio of sums over n clusters its square
        is n / (n - 1) sum (c - r T)^2 / (sum T)^2 (Cochran 1977, Sampling Techniques, 6.3), which is computed anew in
        every draw: a permutation test of shares alone would reject too often in datasets whose clusters differ more
        than those of the others. 0 where nothing varies.
    """
    values, sizes = count.values.reshape(len(count), -1), tokens.values[:, None]
    parts = [sizes, values, values**2, values * sizes, sizes**2, np.ones_like(sizes)]
    columns = xr.DataArray(np.concatenate(parts, axis=1), dims=("item", "column"))
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    shares, squares = [], []
    for index in range(len(dealing.names)):
        total, sums, square, product, size, number = np.split(dealing.sums(columns, index), ends, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = sums / total
            shares.append(share)
            squares.append(number / (number - 1) * (square - 2 * share * product + share**2 * size) / total**2)
    share, square = np.stack(shares), np.maximum(squares, 0)
    others = len(dealing.names) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = share - (share.sum(axis=0) - share) / others
        error = np.sqrt(square + (square.sum(axis=0) - square) / others**2)
        found = np.where(error > 1e-12, distance / error, 0)
    shape = (len(dealing.names), len(dealing.dealt), *count.shape[1:])
    coords = dict(count.coords) | {"dataset": dealing.names}
    return xr.DataArray(found.reshape(shape), coords, ("dataset", "draw", *count.dims[1:]))


def p_value(draws: xr.DataArray) -> xr.DataArray:
    """Share of all draws that are at least as large as draw 0, but for rounding: `draw` goes; NaN where draw 0 is."""
    observed, resampled = draws.isel(draw=0), draws.isel(draw=slice(1, None))
    extreme = (resampled >= observed - 1e-12).sum("draw")
    return ((1 + extreme) / (1 + resampled.sizes["draw"])).where(observed.notnull())
