"""Tokens of the same id from other groups of clusters, one for each layer of a path: what token ids alone give.

They come from groups that all differ from each other and from the token's own, so that no two layers of a path keep
what a text, or a copy of it, has in common. In the draws without a group each token has the same replacements as in
the first draw, but for those of that group.
"""

import numba
import numpy as np

ATTEMPTS = 64


@numba.njit(cache=True)
def replaced(chosen, first, length, place, group, layers, left_out, seed):
    """Other tokens of the same id for some tokens.

    Parameters
    ----------
    chosen
        The tokens, (n,) int64. The id of each must occur in as many groups as there are layers, without the one left
        out.
    first, length
        Where the tokens of each one's id begin in `place`, and how many there are: (token,) int64.
    place
        All tokens, those of an id one after another, (token,) int64.
    group
        That of every token, (token,) int64.
    layers
        Of a path.
    left_out
        A group of which no replacement may be, or -1.
    seed
        From 0 to 2^63.

    Returns
    -------
    numpy.ndarray
        (n, layers - 1) int64: a token for each layer but one, which has the token itself.
    """
    found = np.empty((len(chosen), layers - 1), np.int64)
    taken = np.empty(layers, np.int64)
    for row in range(len(chosen)):
        token = chosen[row]
        taken[0] = group[token]
        for layer in range(layers - 1):
            start, number = place[first[token] : first[token] + length[token]], length[token]
            index, attempt, free = 0, 0, False
            while not free:
                if attempt < ATTEMPTS:
                    index = _random(seed, token * layers + layer, attempt) % number
                else:
                    index = (index + 1) % number  # nearly all are of groups that are taken: the next one that is not
                attempt += 1
                other = group[start[index]]
                free = other != left_out
                for before in range(layer + 1):
                    free = free and other != taken[before]
            found[row, layer] = start[index]
            taken[layer + 1] = other
    return found


@numba.njit(cache=True)
def _random(seed, token, attempt):
    """A number from 0 to 2^63 that looks random (SplitMix64; Steele, Lea and Flood 2014), int64."""
    state = np.uint64(seed) + np.uint64(token) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(attempt) * np.uint64(0xD1B54A32D192ED03) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in (
        (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
        (np.uint64(27), np.uint64(0x94D049BB133111EB)),
    ):
        state = (state ^ (state >> shift)) * factor
    return np.int64((state ^ (state >> np.uint64(31))) >> np.uint64(1))
