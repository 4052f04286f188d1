"""Scoring: how well labels tell which tokens select an expert, or a pair of experts.

Units are experts or pairs. The clusters' groups with even numbers are the half on which labels are chosen, those with
odd numbers the other, on which they are scored. Draws are those of `uncertainty.jackknife`: draw 0 is of all groups
that are scored, draw g + 1 without group g, which changes nothing if that group chose.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse

from gatebook.chapters.annotation.labels import Labels
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import vocabulary
from gatebook.study.routed import slices

CHOOSING = np.arange(GROUPS) % 2 == 0
"""Groups of the half on which labels are chosen."""
NOTHING = -1
"""Label of a unit that has none: all tokens of the first half select it, or none."""


class Counts(NamedTuple):
    """Tokens of each group: hits (group, unit, label) that select a unit and have a label, selected (group, unit),
    labelled (group, label), tokens (group,), all float64."""

    hits: np.ndarray
    selected: np.ndarray
    labelled: np.ndarray
    tokens: np.ndarray

    def of(self, groups: np.ndarray) -> "Counts":
        """The sums over some groups, (group,) bool."""
        return Counts(*(part[groups].sum(axis=0) for part in self))

    def accuracy(self) -> np.ndarray:
        """Balanced accuracy of every label for every unit: (..., unit, label), NaN where it is not known."""
        return accuracy(self.hits, self.selected[..., None], self.labelled[..., None, :], self.tokens[..., None, None])


def accuracy(hits: np.ndarray, selected: np.ndarray, labelled: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """½ P(label | selected) + ½ P(no label | not selected), from counts; NaN if all tokens are selected, or none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 0.5 + 0.5 * (hits / selected - (labelled - hits) / (tokens - selected))


def precision(hits: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """P(selected | label), from counts; NaN without the label."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return hits / labelled


def totals(labels: Labels, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each group have each label, (group, label), and how many there are, (group,), float64."""
    every = np.arange(len(group))
    return _sums(labels, group, every, GROUPS), np.bincount(group, minlength=GROUPS).astype(float)


def count(
    labels: Labels, group: np.ndarray, token: np.ndarray, unit: np.ndarray, units: int, known: tuple[np.ndarray, ...]
) -> Counts:
    """Count the tokens of units.

    Parameters
    ----------
    labels
        Of the tokens.
    group
        Of each token: (token,) int.
    token, unit
        Which tokens select which units: (n,) int each, tokens increasing.
    units
        How many there are.
    known
        What `totals` gives.

    Returns
    -------
    Counts
    """
    row = group[token] * units + unit
    hits = _sums(labels, row, token, GROUPS * units)
    selected = np.bincount(row, minlength=GROUPS * units).astype(float)
    return Counts(hits.reshape(GROUPS, units, len(labels.names)), selected.reshape(GROUPS, units), *known)


def _sums(labels: Labels, row: np.ndarray, token: np.ndarray, rows: int) -> np.ndarray:
    """How many of the tokens of each row have each label: (row, label) float64; tokens increase."""
    found = np.zeros((rows, len(labels.names)))
    for part in slices(len(labels.code)):
        mine = slice(*np.searchsorted(token, [part.start, part.stop]))
        ones, place = np.ones(mine.stop - mine.start, np.float32), (row[mine], token[mine] - part.start)
        found += scipy.sparse.csr_array((ones, place), shape=(rows, part.stop - part.start)) @ labels.matrix[
            part
        ].astype(np.float32)
    return found


def eligible(labelled: np.ndarray, tokens: np.ndarray, minimum_share: float) -> np.ndarray:
    """Which labels enough tokens of the first half have, and are without: (label,) bool."""
    share = labelled[CHOOSING].sum(axis=0) / max(tokens[CHOOSING].sum(), 1)
    return (minimum_share <= share) & (share <= 1 - minimum_share)


def best(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The label with the highest balanced accuracy of those that count, (unit,) int64, `NOTHING` if none is known."""
    held = np.where(among & np.isfinite(values), values, -np.inf)
    known = np.isfinite(held).any(axis=1)
    return np.where(known, held.argmax(axis=1), NOTHING)


def draws(parts: np.ndarray) -> np.ndarray:
    """The sum over the groups that are scored, and without each of them in turn: (draw, ...)."""
    scored = np.where(CHOOSING.reshape(-1, *[1] * (parts.ndim - 1)), 0, parts)
    return np.concatenate([scored.sum(axis=0)[None], scored.sum(axis=0) - scored])


class Scores(NamedTuple):
    """Of labels, one of each unit: `accuracy`, `precision` (draw, unit) float64, NaN of units without a label."""

    accuracy: np.ndarray
    precision: np.ndarray


def held_out(counts: Counts, label: np.ndarray) -> Scores:
    """How well labels (unit,) tell which tokens of the other half select their units."""
    units = np.arange(len(label))
    hits, labelled = draws(counts.hits[:, units, label]), draws(counts.labelled[:, label])
    values = accuracy(hits, draws(counts.selected), labelled, draws(counts.tokens)[:, None])
    return Scores(*(np.where(label == NOTHING, np.nan, each) for each in (values, precision(hits, labelled))))


def lookup(code: np.ndarray, group: np.ndarray, selected: np.ndarray, ids: int, experts: int) -> np.ndarray:
    """Balanced accuracy, on the other half, of the token ids that tell best on the first whether an expert is selected.

    These are the ids whose share of the expert's tokens is larger than that of the other tokens.

    Parameters
    ----------
    code, group
        Number of the id and group of each token: (token,) int.
    selected
        Experts of each token, (token, rank).
    ids, experts
        How many there are.

    Returns
    -------
    numpy.ndarray
        (draw, expert) float64.
    """
    size, number = np.zeros((GROUPS, ids)), np.zeros((GROUPS, experts))
    first = np.flatnonzero(CHOOSING[group])
    mine = vocabulary.count(code[first], selected[first], ids, experts).astype(float)
    every = np.bincount(code[first], minlength=ids)
    whole = mine.sum(axis=1, keepdims=True)
    telling = mine * (len(first) - whole) > (every - mine) * whole
    hits = np.zeros((GROUPS, experts))
    for one in np.flatnonzero(~CHOOSING):
        tokens = np.flatnonzero(group == one)
        found = vocabulary.count(code[tokens], selected[tokens], ids, experts)
        hits[one], number[one] = (found * telling).sum(axis=1), found.sum(axis=1)
        size[one] = np.bincount(code[tokens], minlength=ids)
    labelled, tokens = size @ telling.T.astype(float), size.sum(axis=1)
    return accuracy(draws(hits), draws(number), draws(labelled), draws(tokens)[:, None])


def pairs(selected: np.ndarray, group: np.ndarray, experts: int, most: int) -> np.ndarray:
    """The pairs of experts that most tokens of the first half select, the most frequent first: (pair, 2) int64."""
    chosen = selected[CHOOSING[group]].astype(np.int64)
    rows = np.repeat(np.arange(len(chosen)), chosen.shape[1])
    ones = np.ones(chosen.size, np.float32)
    member = scipy.sparse.csr_array((ones, (rows, chosen.ravel())), shape=(len(chosen), experts))
    number = np.triu((member.T @ member).toarray(), 1)
    order = np.argsort(-number.ravel(), kind="stable")[:most]
    return np.stack(np.divmod(order[number.ravel()[order] > 0], experts), axis=1)


def members(selected: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens select both experts of pairs (pair, 2): token, pair (n,) int64 each, tokens increasing."""
    has = np.zeros((int(selected.max(initial=0)) + 1, len(selected)), bool)
    has[selected.T, np.arange(len(selected))] = True
    found = [np.flatnonzero(has[one] & has[other]) for one, other in chosen]
    token = np.concatenate([np.zeros(0, np.int64), *found])
    pair = np.repeat(np.arange(len(found)), [len(each) for each in found])
    order = np.argsort(token, kind="stable")
    return token[order], pair[order]
