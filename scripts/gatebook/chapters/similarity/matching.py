"""Matching of neurons, in processes: a module of its own, because each of them imports it and nothing heavier.

scipy holds Python's lock while it matches, so threads would wait for each other.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from joblib import Parallel, delayed
from scipy.optimize import linear_sum_assignment


def pool(workers: int) -> Parallel:
    """So many processes, to be entered with `with`; for one worker, none but the own."""
    # One at a time, so that few matrices wait.
    return Parallel(n_jobs=workers, return_as="generator", batch_size=1)


def largest_sums(alike: Iterable[np.ndarray], workers: Parallel) -> Iterator[float]:
    """For each matrix (neuron, other) the largest sum of entries with one in each row and column (Hungarian method).

    More than one worker begins at once and takes matrices from `alike` in threads of its own; they go to the processes
    as files in the folder for temporary ones (a pipe takes three times as long). Sums come in order.
    """
    if workers.n_jobs == 1:
        return map(_largest_sum, alike)
    folder = TemporaryDirectory(prefix="gatebook-matching-")
    paths = (_write(matrix, Path(folder.name, str(number))) for number, matrix in enumerate(alike))
    return _until_done(workers(delayed(_sum_of_file)(path) for path in paths), folder)


def _until_done(sums: Iterator[float], folder: TemporaryDirectory) -> Iterator[float]:
    with folder:
        yield from sums


def _write(matrix: np.ndarray, path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, matrix)
    return path


def _sum_of_file(path: Path) -> float:
    matrix = np.load(path)
    path.unlink()
    return _largest_sum(matrix)


def _largest_sum(matrix: np.ndarray) -> float:
    # What is taken from a whole row or column changes all sums alike; with zeros as the largest entries of each, most
    # neurons are matched at once, and the search takes a quarter less time.
    reduced = matrix - matrix.max(axis=1, keepdims=True).astype(np.float64)
    reduced -= reduced.max(axis=0)
    return matrix[linear_sum_assignment(reduced, maximize=True)].sum(dtype=np.float64)
