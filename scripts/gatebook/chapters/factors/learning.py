"""Semi-non-negative factors: directions D and activations G >= 0 for which 1/2 |A - G D|^2 + sparsity sum G is small.

This is what scikit-learn's `MiniBatchDictionaryLearning(positive_code=True, fit_algorithm="cd")` minimises, by the same
steps (Mairal et al. 2010): coordinate descent for the activations of a batch, then one direction after another. It is
written out here for two reasons. One start of scikit-learn's is the singular vectors, whatever the seed, so that two
fits of a Gaussian agree too; here directions start at random rows. And its activations take a call for every row, which
is ten times slower. Multiplicative updates without sparsity fail unseen: to the activations of centred rows a constant
can be added, and then all factors are active everywhere, at a fit that is nearly that of principal components.
"""

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

BATCH = 256
ACCURACY, SWEEPS = 1e-4, 1000
"""Of activations: coordinate descent ends when none moves by more, or after so many rounds."""


def learn(rows: np.ndarray, number: int, *, sparsity: float, passes: int, seed: int) -> np.ndarray:
    """Directions of factors.

    Parameters
    ----------
    rows
        What is fitted, (row, hidden) float64, centred and of mean norm 1.
    number
        Of factors; at most as many as rows.
    sparsity
        Weight of the activations.
    passes
        Over the rows, in a random order each.
    seed
        Of the start and the orders.

    Returns
    -------
    numpy.ndarray
        (factor, hidden) float64, none longer than 1.
    """
    rng = np.random.default_rng(seed)
    number = min(number, len(rows))
    directions = _unit(rows[rng.choice(len(rows), number, replace=False)])
    active, done = np.zeros((len(rows), number)), 0
    within, along = np.zeros((number, number)), np.zeros((number, rows.shape[1]))
    for _ in range(passes):
        order = rng.permutation(len(rows))
        for batch in np.split(order, range(BATCH, len(order), BATCH)):
            active[batch] = activations(rows[batch], directions, sparsity, active[batch])
            done += len(batch)
            past = 1 - len(batch) / min(done, BATCH * BATCH)  # what was seen with early directions is forgotten
            within = past * within + active[batch].T @ active[batch]
            along = past * along + active[batch].T @ rows[batch]
            _move(directions, within, along, rows, rng)
    return directions


def _move(
    directions: np.ndarray, within: np.ndarray, along: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> None:
    """Set each direction in turn to the best one for the activations so far; one that is never active starts again."""
    for factor in range(len(directions)):
        if within[factor, factor] > 1e-9:
            directions[factor] += (along[factor] - within[factor] @ directions) / within[factor, factor]
        else:
            directions[factor] = rows[rng.integers(len(rows))]
        directions[factor] /= max(np.linalg.norm(directions[factor]), 1)


def activations(
    rows: np.ndarray, directions: np.ndarray, sparsity: float, start: np.ndarray | None = None
) -> np.ndarray:
    """The activations of rows, (row, factor) float64, none negative, the best ones for these directions.

    start (row, factor): where the descent begins, 0 if it is None.
    """
    found = np.zeros((len(rows), len(directions))) if start is None else start.copy()
    _descend(directions @ directions.T, rows @ directions.T, sparsity, found)
    return found


@numba.njit(cache=True)
def _descend(gram, target, sparsity, found):
    """Coordinate descent on each row of `found`: gram of the directions, target of rows with directions."""
    number = len(gram)
    for row in range(len(found)):
        code, rest = found[row], target[row].copy()
        for factor in range(number):
            if code[factor] > 0:
                for other in range(number):
                    rest[other] -= gram[factor, other] * code[factor]
        for _ in range(SWEEPS):
            farthest = 0.0
            for factor in range(number):
                if gram[factor, factor] > 0:
                    new = max(code[factor] + (rest[factor] - sparsity) / gram[factor, factor], 0.0)
                    step = new - code[factor]
                    if step != 0:
                        code[factor] = new
                        for other in range(number):
                            rest[other] -= gram[factor, other] * step
                        farthest = max(farthest, abs(step))
            if farthest < ACCURACY:
                break


def matched(directions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The cosine of each direction with its partner among others, (factor,) float64; partners have the largest sum."""
    cosine = _unit(directions) @ _unit(others).T
    found = np.full(len(directions), -1.0)
    mine, theirs = linear_sum_assignment(-cosine)
    found[mine] = cosine[mine, theirs]
    return found


def gaussian(rows: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian rows with the mean 0 and the covariance of centred rows: (number, hidden) float64."""
    spread, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    return rng.standard_normal((number, len(spread))) * np.sqrt(np.maximum(spread, 0)) @ axes.T


def components(rows: np.ndarray, number: int) -> np.ndarray:
    """The first principal components of centred rows, orthonormal: (at most number, hidden)."""
    return np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :number].T


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
