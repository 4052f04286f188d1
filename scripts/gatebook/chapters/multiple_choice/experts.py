"""The experts of a subject, and slots that stand for as much weight.

An expert's specialization for a subject is the share of the subject's tokens that select it, minus the mean of this
share over the other subjects, in calibration questions. A slot is one selected expert of one token.
"""

import numba
import numpy as np


def specialised(counts: np.ndarray, tokens: np.ndarray, experts: int) -> np.ndarray:
    """The experts with the highest specialization for each subject: (subject, layer, rank) int64, the highest first.

    Parameters
    ----------
    counts
        How many calibration tokens of a subject select each expert: (subject, layer, expert).
    tokens
        How many such tokens each subject has: (subject,), at least 1.
    experts
        How many are taken.

    Returns
    -------
    numpy.ndarray
        Equal ones in the order of their numbers.
    """
    share = counts / tokens[:, None, None]
    others = (share.sum(axis=0) - share) / (len(share) - 1)
    return np.argsort(others - share, axis=-1, kind="stable")[..., :experts]


def pairs(weight: np.ndarray, own: np.ndarray, other: np.ndarray, caliper: float) -> tuple[np.ndarray, np.ndarray]:
    """Slots of own experts and as many of others, one to one, of nearly equal weights.

    Own slots, the largest weight first, take the slot of another expert with the nearest weight that is left, if its
    distance is at most `caliper` times their own weight; those that find none are dropped.

    Parameters
    ----------
    weight
        Of the slots: (slot,) float.
    own, other
        Which of them may be taken on either side: (slot,) bool.
    caliper
        See above.

    Returns
    -------
    own, other : numpy.ndarray
        The slots taken, in the order of the pairs: (pair,) int64 each.
    """
    mine, theirs = np.flatnonzero(own), np.flatnonzero(other)
    mine, theirs = mine[np.argsort(-weight[mine], kind="stable")], theirs[np.argsort(weight[theirs], kind="stable")]
    partner = _partners(weight[mine].astype(np.float64), weight[theirs].astype(np.float64), caliper)
    found = partner >= 0
    return mine[found], theirs[partner[found]]


@numba.njit(cache=True)
def _partners(mine: np.ndarray, theirs: np.ndarray, caliper: float) -> np.ndarray:
    """For each of `mine` the place of its partner among `theirs`, which increase; -1 if it has none."""
    taken, partner = np.zeros(len(theirs), np.bool_), np.full(len(mine), -1)
    for index in range(len(mine)):
        start = np.searchsorted(theirs, mine[index])
        below, above = start - 1, start
        while below >= 0 and taken[below]:
            below -= 1
        while above < len(theirs) and taken[above]:
            above += 1
        down = mine[index] - theirs[below] if below >= 0 else np.inf
        up = theirs[above] - mine[index] if above < len(theirs) else np.inf
        if min(down, up) <= caliper * mine[index]:
            partner[index] = below if down <= up else above
            taken[partner[index]] = True
    return partner
