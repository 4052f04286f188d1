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
    """Positions of the `highest` largest weights, and of `random` others.

    candidates: positions (n,), integers, increasing; weight (n,) and token_id (n,) of each. The first are sorted by
    weight, largest first, equal ones by position; at most `per_token` of them have the same token id. The others are
    drawn without replacement from the rest, by `rng`, and sorted by position. Both are shorter if there are too few.
    """
    order = np.argsort(-weight, kind="stable")
    largest = order[_earlier(token_id[order]) < per_token][:highest]
    rest = np.delete(candidates, largest)
    return candidates[largest], np.sort(rng.choice(rest, min(random, len(rest)), replace=False))


def _earlier(values: np.ndarray) -> np.ndarray:
    """How many entries before it are equal to each entry, (n,)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(values) else np.zeros(0, int)
    earlier = np.empty(len(values), int)
    earlier[order] = np.arange(len(values)) - np.repeat(first, np.diff(np.append(first, len(values))))
    return earlier
