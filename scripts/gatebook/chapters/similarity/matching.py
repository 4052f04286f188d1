"""Matching of neurons, in processes: a module of its own, because each of them imports it and nothing heavier.

scipy holds Python's lock while it matches, so threads would wait for each other.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from joblib import Parallel, delayed
from scipy.optimize import linear_sum_assignment


def pool(workers: int) -> Parallel:
    """So many processes, to be entered with `with`; for one worker, none but the own."""
    # Arrays go to them through pipes: as files (joblib's `max_nbytes`) those of a layer would be kept until its end.
    # One at a time, so that few arrays wait in memory.
    return Parallel(n_jobs=workers, return_as="generator", batch_size=1, max_nbytes=None)


def largest_sums(alike: Iterable[np.ndarray], workers: Parallel) -> Iterator[float]:
    """For each matrix (neuron, other) the largest sum of entries with one in each row and column (Hungarian method).

    More than one worker begins at once and takes matrices from `alike` in threads of its own; sums come in order.
    """
    return workers(delayed(_largest_sum)(matrix) for matrix in alike)


def _largest_sum(matrix: np.ndarray) -> float:
    # What is taken from a whole row or column changes all sums alike; with zeros as the largest entries of each, most
    # neurons are matched at once, and the search takes a quarter less time.
    reduced = matrix - matrix.max(axis=1, keepdims=True).astype(np.float64)
    reduced -= reduced.max(axis=0)
    return matrix[linear_sum_assignment(reduced, maximize=True)].sum(dtype=np.float64)
