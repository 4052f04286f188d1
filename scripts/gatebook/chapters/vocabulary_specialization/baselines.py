"""What else could tell where a token goes, and what its id says of its domain: baselines of vocabulary specialization.

Predictability is the split-half measure for other classes than the token id: the expert of a class is chosen on one
half of the clusters and judged on the other. "nothing" puts all tokens into one class.

Domains differ in their token ids. What the ids alone would give of the information about the domain is that of loads in
which every token is sent where the tokens of its id in other groups of clusters go, whatever their domain; held against
the information of the true loads of the same tokens, those whose id occurs in another group. Ids that one domain has
for itself count as ids: what is left is certainly not of single tokens.
"""

import numba
import numpy as np
import xarray as xr

from gatebook.inputs.clusters import GROUPS
from gatebook.measures.uncertainty import POOLED, without_each
from gatebook.measures.vocabulary import Occurrences, occurrences
from gatebook.study.routed import NONE

CLASSES = ("nothing", "dataset", "previous token", "token", "token and dataset")


def classes(tokens: xr.Dataset) -> dict[str, Occurrences]:
    """The tokens of a study (`routed.read`) by each of the `CLASSES`; the first tokens of windows have no previous one.

    `Occurrences.token_id` numbers the values of the class.
    """
    kinds, ids = tokens["kind"].values.tolist(), tokens["token_id"].values
    token, following = ids[kinds.index("input")], ids[kinds.index("next")]
    dataset, group = tokens["dataset"].values.astype(np.int64), tokens["group"].values
    previous = np.append(NONE, np.where(following[:-1] == NONE, NONE, token[:-1]))
    pair = token * np.int64(tokens.sizes["name"]) + dataset
    named = dict(zip(CLASSES, (np.zeros_like(token), dataset, previous, token, pair), strict=True))
    place, found = np.arange(len(token), dtype=np.int32), {}
    for name, value in named.items():
        values, code = np.unique(value, return_inverse=True)
        found[name] = Occurrences(place, values, code.astype(np.int32), group)
    return found


def domain_information(tokens: xr.Dataset, selected: np.ndarray, experts: int) -> xr.Dataset:
    """Information about the domain in one layer, of the true loads and of those that token ids alone would give.

    Parameters
    ----------
    tokens
        Those of the study, see `routed.read`.
    selected
        Their experts: (token, rank) unsigned int.
    experts
        How many the layer has.

    Returns
    -------
    xarray.Dataset
        `domain_information`, `domain_information_of_ids` (draw,) float64 in bits per selection, and `share_of_ids`, the
        second by the first; draw 0 is that of all covered tokens, draw g + 1 leaves those of group g out. NaN if a
        dataset has no token whose id occurs in another group.
    """
    found = occurrences(tokens, "input", POOLED)
    shape = (2, GROUPS, tokens.sizes["name"], experts)
    dataset = tokens["dataset"].values[found.place][found.order]
    group, chosen = found.group[found.order], np.ascontiguousarray(selected[found.place][found.order])
    loads = _loads(found.starts, group, dataset.astype(np.int64), chosen, np.zeros(shape))
    parts = xr.DataArray(loads, dims=("loads", "group", "dataset", "expert"))
    held = without_each(parts)
    share = held / held.sum("expert").where(lambda total: total > 0)
    mixture = share.mean("dataset", skipna=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = xr.where(share > 0, share * np.log2(share / mixture), 0)
    bits = terms.sum("expert").mean("dataset").where(mixture.notnull().all("expert"))
    true, of_ids = bits.isel(loads=0), bits.isel(loads=1)
    return xr.Dataset(
        {
            "domain_information": true,
            "domain_information_of_ids": of_ids,
            "share_of_ids": of_ids / true.where(true > 0),
        }
    )


@numba.njit(cache=True)
def _loads(starts, group, dataset, selected, out):
    """Fill `out` (2, group, dataset, expert), zeros: selections of the covered tokens, and what ids would give."""
    counts, tokens = np.zeros((out.shape[1], out.shape[3])), np.zeros(out.shape[1])
    total = np.zeros(out.shape[3])
    for code in range(len(starts) - 1):
        counts[:], tokens[:], total[:] = 0, 0, 0
        for token in range(starts[code], starts[code + 1]):
            tokens[group[token]] += 1
            for rank in range(selected.shape[1]):
                counts[group[token], selected[token, rank]] += 1
                total[selected[token, rank]] += 1
        size = starts[code + 1] - starts[code]
        for token in range(starts[code], starts[code + 1]):
            one, domain = group[token], dataset[token]
            others = size - tokens[one]
            if others > 0:
                for rank in range(selected.shape[1]):
                    out[0, one, domain, selected[token, rank]] += 1
                for expert in range(len(total)):
                    out[1, one, domain, expert] += (total[expert] - counts[one, expert]) / others
    return out
