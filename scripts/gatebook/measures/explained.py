"""Share explained: how much of where tokens go is decided by a class that they belong to, such as their token id.

y is the set of the k experts that a token selects, as E numbers 0 and 1; its total variance is k - |mu|^2, mu the mean
of y over tokens. A class c, of which every token has one value, explains

    R^2(c) = (E_c |mu_c|^2 - |mu|^2) / (k - |mu|^2),

and of the selection of expert e alone (E_c mu_ce^2 - mu_e^2) / (mu_e - mu_e^2). E_c |mu_c|^2 is the expected number of
experts that two different tokens of the same value share, and |mu|^2 that of any two. Both are estimated from pairs of
tokens in different groups of clusters, and so from tokens that have nothing but the class in common: the variance of
means, in which each token is its own partner, would find a share in a class that explains nothing. Tokens without a
partner of their value count in neither; how many have one is the coverage.

Datasets have equal weights, whatever their numbers of covered tokens. What a class explains of one dataset is the same
for its tokens: how many experts they share with those of the same value, of any dataset, and with any token. In the
share of all datasets numerator and denominator are the means of theirs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from gatebook.inputs.clusters import GROUPS
from gatebook.measures.uncertainty import cluster_sums


@dataclass(frozen=True)
class Partners:
    """The tokens that have a partner, one of the same value of a class in another group of clusters.

    place (n,) int64: which tokens, those of a value one after another, in the order of their groups and datasets;
    starts (value + 1,) int64: where each value begins among them, and the end of the last one; group, dataset (n,)
    int64; tokens (draw, dataset) int64: how many tokens there are, with a partner or without, as draws of `Explained`.
    """

    place: np.ndarray
    starts: np.ndarray
    group: np.ndarray
    dataset: np.ndarray
    tokens: np.ndarray

    @property
    def coverage(self) -> np.ndarray:
        """The share of each dataset's tokens that have a partner: (dataset,) float64."""
        return np.bincount(self.dataset, minlength=self.tokens.shape[1]) / np.maximum(self.tokens[0], 1)


def partners(
    code: np.ndarray, group: np.ndarray, dataset: np.ndarray, datasets: int, among: np.ndarray | None = None
) -> Partners:
    """The tokens with a partner, of a class.

    Parameters
    ----------
    code
        The value of each token's class, (token,) int.
    group
        The group of its cluster, (token,) int from 0 to `GROUPS` - 1.
    dataset
        Its dataset, (token,) int from 0.
    datasets
        How many there are.
    among
        The tokens that count, (token,) bool; all of them if it is None.

    Returns
    -------
    Partners
    """
    place = np.arange(len(code)) if among is None else np.flatnonzero(among)
    code, group, dataset = code[place], group[place].astype(np.int64), dataset[place].astype(np.int64)
    held = np.bincount(group * datasets + dataset, minlength=GROUPS * datasets).reshape(GROUPS, datasets)
    order = np.lexsort((dataset, group, code))
    code, group, dataset, place = code[order], group[order], dataset[order], place[order]
    starts = np.flatnonzero(np.append(True, code[1:] != code[:-1])) if len(code) else np.zeros(0, np.int64)
    sizes = np.diff(starts, append=len(code))
    several = group[starts] != group[starts + sizes - 1]
    kept = np.repeat(several, sizes)
    ends = np.append(0, np.cumsum(sizes[several]))
    total = held.sum(axis=0)
    return Partners(place[kept], ends, group[kept], dataset[kept], np.concatenate([total[None], total - held]))


class Explained(NamedTuple):
    """The share explained (draw, 1 + dataset) float64, that of all datasets first, and by expert: `of_experts` (draw,
    expert) float64, of all datasets. `coverage` (draw, 1 + dataset) float64 is the share of tokens with a partner.

    Draw 0 is that of all tokens, draw g + 1 leaves out group g: for `uncertainty.jackknife`. NaN where no two tokens of
    different groups share a value, or all tokens select the same experts.
    """

    share: np.ndarray
    of_experts: np.ndarray
    coverage: np.ndarray


def share_explained(found: Partners, selected: np.ndarray, experts: int) -> Explained:
    """R^2 of a class.

    Parameters
    ----------
    found
        The tokens with a partner.
    selected
        The experts of all tokens, (token, rank) unsigned int, all different.
    experts
        How many there are.

    Returns
    -------
    Explained
    """
    shared, covered, loads = _sums(found, selected, selected, experts)
    weight = _weights(found)
    with np.errstate(divide="ignore", invalid="ignore"):
        number = covered.sum(axis=1)
        even = np.where(number > 0, 1 / number, 0)  # what a token counts, so that datasets count the same
        even /= (number > 0).sum(axis=1, keepdims=True)
        # What tokens share with any token of the other groups, as they share with those of their value.
        load, size = np.einsum("wgde,d->wge", loads, weight), np.einsum("wgd,d->wg", covered, weight)
        others = size.sum(axis=1, keepdims=True) - size
        any_other = (load.sum(axis=1, keepdims=True) - load) / np.where(others > 1e-12, others, np.nan)[..., None]
        with_any = np.einsum("wgde,wge->wde", loads, np.nan_to_num(any_other))
        same, any_two, mean = (np.einsum("wde,wd->we", part, even) for part in (shared, with_any, loads.sum(axis=1)))
        of_experts = _ratio(same - any_two, mean - any_two)
        same, any_two = (
            np.concatenate([all_of.sum(axis=1, keepdims=True), part.sum(axis=2) / number], axis=1)
            for all_of, part in ((same, shared), (any_two, with_any))
        )
        share = _ratio(same - any_two, selected.shape[1] - any_two)
        return Explained(share, of_experts, _coverage(number, found.tokens))


def shared_experts(found: Partners, selected: np.ndarray, others: np.ndarray, experts: int) -> np.ndarray:
    """Which share of its experts a token has in common with what other tokens of its value select.

    Parameters
    ----------
    found
        The tokens with a partner.
    selected, others
        The experts of all tokens, (token, rank) unsigned int, all different: those of the token itself, and those of
        its partners, which may be what another checkpoint selects for them.
    experts
        How many there are.

    Returns
    -------
    numpy.ndarray
        (draw, 1 + dataset) float64, the mean of all datasets first, draws as those of `Explained`.
    """
    shared, covered, _ = _sums(found, selected, others, experts)
    number = covered.sum(axis=1)
    value = shared.sum(axis=-1) / np.where(number > 0, number * selected.shape[1], np.nan)
    known = np.isfinite(value)
    whole = np.where(known, value, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return np.concatenate([whole[:, None], value], axis=1)


def variance_explained(code: np.ndarray, group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """R^2 of a class for numbers in place of expert sets: (E_c mu_c^2 - mu^2) / (E y^2 - mu^2), from the same pairs.

    Parameters
    ----------
    code
        The value of each token's class, (token,) int.
    group
        The group of its cluster, (token,) int from 0 to `GROUPS` - 1.
    values
        What is to be explained, (token, column) float64; all tokens count the same.

    Returns
    -------
    numpy.ndarray
        (draw, column) float64, draws as those of `Explained`; NaN where no two tokens of different groups share a value
        or nothing varies.
    """
    cells, cell = np.unique(np.array([code, group], dtype=np.int64), axis=1, return_inverse=True)
    value, group = np.unique(cells[0], return_inverse=True)[1], cells[1]
    number = np.bincount(cell, minlength=len(group)).astype(np.float64)
    sums, squares = (cluster_sums(each, cell, len(group)) for each in (values, values**2))
    columns = np.concatenate([sums, number[:, None]], axis=1)
    found = []
    for left_out in range(-1, GROUPS):
        kept = columns * (group != left_out)[:, None]
        others = cluster_sums(kept, value, value.max(initial=-1) + 1)[value] - kept
        covered = (kept[:, -1] > 0) & (others[:, -1] > 0)
        if not covered.any():
            found.append(np.full(values.shape[1], np.nan))
            continue
        kept, others, of = kept[covered], others[covered], group[covered]
        same = (kept[:, :-1] * others[:, :-1] / others[:, -1:]).sum(axis=0)
        loads = cluster_sums(kept, of, GROUPS)
        rest = loads.sum(axis=0) - loads
        any_two = (loads[:, :-1] * rest[:, :-1] / np.maximum(rest[:, -1:], 1)).sum(axis=0)
        found.append(_ratio(same - any_two, squares[covered].sum(axis=0) - any_two))
    return np.array(found)


def _sums(
    found: Partners, selected: np.ndarray, others: np.ndarray, experts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `_add_values` adds up, in every draw: shared (draw, dataset, expert), covered (draw, group, dataset), loads
    (draw, group, dataset, expert)."""
    datasets, every = found.tokens.shape[1], np.arange(GROUPS)
    shared = np.zeros((1 + GROUPS, datasets, experts))
    covered = np.zeros((1 + GROUPS, GROUPS, datasets))
    loads = np.zeros((1 + GROUPS, GROUPS, datasets, experts))
    weight = _weights(found)
    _add_values(found.place, found.starts, found.group, found.dataset, selected, others, weight, shared, covered, loads)
    for part in (shared, covered, loads):
        part[1:] += part[0]
    for part in (covered, loads):
        part[1 + every, every] = 0
    return shared, covered, loads


def _weights(found: Partners) -> np.ndarray:
    """What a partner counts, by its dataset: (dataset,)."""
    return 1 / np.maximum(np.bincount(found.dataset, minlength=found.tokens.shape[1]), 1)


def _coverage(covered: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The shares of tokens that are covered, (draw, 1 + dataset), their mean over datasets with tokens first."""
    coverage = covered / np.where(tokens > 0, tokens, np.nan)
    known = tokens > 0
    whole = np.where(known, coverage, 0).sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True)
    return np.concatenate([whole, coverage], axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part by whole, NaN where there is nothing to explain."""
    return part / np.where(whole > 1e-12, whole, np.nan)


@numba.njit(cache=True)
def _add_values(place, starts, group, dataset, selected, others, weight, shared, covered, loads):
    """Add the tokens of all values to draw 0 of the sums, and to the others what leaving out a group changes.

    A cell is what one dataset has of one value in one group. Its tokens share with those of the other groups, on
    average, as many experts as its counts and theirs, of what the `others` select, have in common, by their number; a
    token of theirs has the weight of its dataset. What falls to the group that is left out itself stays in `covered`
    and `loads`.
    """
    _, groups, datasets, experts = loads.shape
    counts, held = np.zeros((groups * datasets, experts)), np.zeros(groups * datasets)
    slot_of, dataset_of = np.zeros(groups * datasets, np.int64), np.zeros(groups * datasets, np.int64)
    table, size, number = np.zeros((groups, experts)), np.zeros(groups), np.zeros(groups, np.int64)
    whole, common = np.zeros(experts), np.zeros(experts)
    for value in range(len(starts) - 1):
        cells, slots, total = 0, 0, 0.0
        whole[:] = 0
        for token in range(starts[value], starts[value + 1]):
            new_slot = slots == 0 or number[slots - 1] != group[token]
            if new_slot:
                number[slots], size[slots] = group[token], 0
                table[slots, :] = 0
                slots += 1
            if new_slot or dataset_of[cells - 1] != dataset[token]:
                slot_of[cells], dataset_of[cells], held[cells] = slots - 1, dataset[token], 0
                counts[cells, :] = 0
                cells += 1
            one = weight[dataset[token]]
            for rank in range(selected.shape[1]):
                counts[cells - 1, selected[place[token], rank]] += 1
                expert = others[place[token], rank]
                table[slots - 1, expert] += one
                whole[expert] += one
            held[cells - 1] += 1
            size[slots - 1] += one
            total += one
        for cell in range(cells):
            slot, of = slot_of[cell], dataset_of[cell]
            own, rest, mine = number[slot], 1 / (total - size[slot]), counts[cell]
            covered[0, own, of] += held[cell]
            for expert in range(experts):
                common[expert] = mine[expert] * (whole[expert] - table[slot, expert])
                loads[0, own, of, expert] += mine[expert]
                shared[0, of, expert] += common[expert] * rest
                shared[1 + own, of, expert] -= common[expert] * rest
            for other in range(slots):
                left_out = number[other]
                if other == slot:
                    continue
                if slots == 2:
                    covered[1 + left_out, own, of] -= held[cell]
                    for expert in range(experts):
                        loads[1 + left_out, own, of, expert] -= mine[expert]
                        shared[1 + left_out, of, expert] -= common[expert] * rest
                else:
                    fewer = 1 / (total - size[slot] - size[other])
                    for expert in range(experts):
                        shared[1 + left_out, of, expert] += (
                            common[expert] * (fewer - rest) - mine[expert] * table[other, expert] * fewer
                        )
