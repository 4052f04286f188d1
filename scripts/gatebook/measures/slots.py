"""Slots: a slot is one of the experts that a token selects, with its routing weight.

Removing an expert takes its slots away, and with them their weight. Whether it is the expert that matters, or its load,
is seen by removing as many slots of other experts with the same weights in the same text.
"""

import numpy as np
import scipy.optimize


def match(own: np.ndarray, others: np.ndarray, caliper: float) -> tuple[np.ndarray, np.ndarray]:
    """Slots matched one to one with others of nearly the same weight, which stand for as much load.

    Parameters
    ----------
    own, others
        Weights: (slot,) and (other,), positive.
    caliper
        The largest difference of a pair, by the weight of the own slot.

    Returns
    -------
    numpy.ndarray
        Indices of own slots with a partner, as many as there can be, with the smallest differences in sum: (pair,).
    numpy.ndarray
        Indices of the partners: (pair,).
    """
    apart = np.abs(others - own[:, None]) / own[:, None]
    near = apart <= caliper
    alone = 1 + caliper * len(own)  # costs more than all differences of pairs
    first, second = scipy.optimize.linear_sum_assignment(np.where(near, apart, alone))
    kept = near[first, second]
    return first[kept], second[kept]
