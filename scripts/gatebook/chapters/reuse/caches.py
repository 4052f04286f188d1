"""Caches and guesses of experts: how many of the experts that tokens select are ready.

All experts of a token are looked up at once, before any of them changes the cache. Selections are (token, rank) int64,
in the order in which tokens come; the experts of a token are different, their order does not count.
"""

import numba
import numpy as np


def depths(selected: np.ndarray, new: np.ndarray, experts: int) -> np.ndarray:
    """How many experts were used since each selected one was: (token, rank) int64, `experts` if it never was.

    A cache that keeps the c most recently used experts hits a selection whose depth is below c. Experts of one token
    are used at the same time, those with small numbers last. new (token,) bool: where all caches begin empty.
    """
    found = np.empty(selected.shape, np.int64)
    _fill_depths(selected, new, experts, found)
    return found


def optimal(selected: np.ndarray, new: np.ndarray, size: int, experts: int) -> np.ndarray:
    """How many experts of each token a cache of `size` hits that keeps those whose next use is nearest: (token,) int64.

    They are chosen after each token among the experts in the cache and those of the token, so that what was fetched
    need not be kept; no cache of this size that begins empty has more hits. new: as that of `depths`.
    """
    hits = np.zeros(len(selected), np.int64)
    _add_optimal(selected, _following(selected, new, experts), new, size, experts, hits)
    return hits


def told(given: np.ndarray, selected: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """How many experts of each token are among as many that are told from `given` (token, rank): (token,) int64.

    Those with the largest sum of the `votes` (given expert, expert) of its given experts are told; of equal ones those
    with small numbers.
    """
    hits = np.zeros(len(selected), np.int64)
    _add_told(given, selected, votes, hits)
    return hits


def _following(selected: np.ndarray, new: np.ndarray, experts: int) -> np.ndarray:
    """The next token that selects the same expert before caches begin empty again: (token, rank) int64, or how many
    tokens there are."""
    tokens, top_k = selected.shape
    code = (np.cumsum(new)[:, None] * experts + selected).ravel()
    order = np.argsort(code, kind="stable")
    same = code[order[:-1]] == code[order[1:]]
    found = np.full(code.size, tokens)
    found[order[:-1][same]] = order[1:][same] // top_k
    return found.reshape(tokens, top_k)


@numba.njit(cache=True)
def _fill_depths(selected, new, experts, depth):
    stack, before, used = np.zeros(experts, np.int64), np.zeros(experts, np.int64), np.zeros(experts, np.bool_)
    filled = 0
    for token in range(len(selected)):
        if new[token]:
            filled = 0
        used[:] = False
        for rank in range(selected.shape[1]):
            used[selected[token, rank]] = True
            depth[token, rank] = experts
            for place in range(filled):
                if stack[place] == selected[token, rank]:
                    depth[token, rank] = place
        number, filled = filled, 0
        for place in range(number):
            before[place] = stack[place]
        for expert in range(experts):
            if used[expert]:
                stack[filled] = expert
                filled += 1
        for place in range(number):
            if not used[before[place]]:
                stack[filled] = before[place]
                filled += 1


@numba.njit(cache=True)
def _add_optimal(selected, following, new, size, experts, hits):
    held, due, number = np.zeros(experts, np.bool_), np.zeros(experts, np.int64), 0
    for token in range(len(selected)):
        if new[token]:
            held[:] = False
            number = 0
        for rank in range(selected.shape[1]):
            expert = selected[token, rank]
            if held[expert]:
                hits[token] += 1
            else:
                held[expert] = True
                number += 1
            due[expert] = following[token, rank]
        while number > size:
            last = -1
            for expert in range(experts):
                if held[expert] and (last < 0 or due[expert] > due[last]):
                    last = expert
            held[last] = False
            number -= 1


@numba.njit(cache=True)
def _add_told(given, selected, votes, hits):
    score = np.zeros(votes.shape[1])
    for token in range(len(selected)):
        score[:] = 0
        for rank in range(given.shape[1]):
            for expert in range(len(score)):
                score[expert] += votes[given[token, rank], expert]
        for _ in range(selected.shape[1]):
            best = 0
            for expert in range(len(score)):
                if score[expert] > score[best]:
                    best = expert
            score[best] = -1
            for rank in range(selected.shape[1]):
                hits[token] += selected[token, rank] == best
