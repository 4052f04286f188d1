"""Contexts: which of the tokens that an expert receives are shown as its examples."""

import numpy as np


def choose(
    candidates: np.ndarray,
    weight: np.ndarray,
    token_id: np.ndarray,
    *,
    highest: int,
    per_token: int,
    random: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the largest weights, and of random others.

    Parameters
    ----------
    candidates
        Positions, increasing: (n,) int.
    weight, token_id
        Of each: (n,).
    highest
        So many with the largest weights, of which at most `per_token` have the same token id.
    per_token
        See `highest`.
    random
        So many others, drawn without replacement from the rest by `rng`.
    rng
        Is moved on.

    Returns
    -------
    largest : numpy.ndarray
        Sorted by weight, largest first, equal ones by position; (highest,) or fewer.
    others : numpy.ndarray
        Sorted by position; (random,) or fewer.
    """
    order = np.argsort(-weight, kind="stable")
    largest = order[_earlier(token_id[order]) < per_token][:highest]
    rest = np.delete(candidates, largest)
    return candidates[largest], np.sort(rng.choice(rest, min(random, len(rest)), replace=False))


def middle(
    candidates: np.ndarray,
    weight: np.ndarray,
    token_id: np.ndarray,
    *,
    number: int,
    per_token: int,
    others: np.ndarray,
) -> np.ndarray:
    """Positions whose weights are nearest to the median weight of all, the nearest first, equal ones by position.

    Parameters
    ----------
    candidates, weight, token_id
        As those of `choose`.
    number, per_token
        So many, of which at most `per_token` have the same token id.
    others
        Positions that are left out.

    Returns
    -------
    numpy.ndarray
        (number,) or fewer.
    """
    if not len(candidates):
        return candidates
    order = np.argsort(np.abs(weight - np.median(weight)), kind="stable")
    order = order[~np.isin(candidates[order], others)]
    return candidates[order[_earlier(token_id[order]) < per_token][:number]]


def _earlier(values: np.ndarray) -> np.ndarray:
    """How many entries before it are equal to each entry, (n,)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(values) else np.zeros(0, int)
    earlier = np.empty(len(values), int)
    earlier[order] = np.arange(len(values)) - np.repeat(first, np.diff(np.append(first, len(values))))
    return earlier
