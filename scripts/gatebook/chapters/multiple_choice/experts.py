"""The experts of a subject.

An expert's specialization for a subject is the share of the subject's tokens that select it, minus the mean of this
share over the other subjects, in calibration questions.
"""

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
