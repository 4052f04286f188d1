"""Windows: what a model sees of a document at once, and blocks of whole windows, in which tokens are worked through."""

from collections.abc import Iterator

import numpy as np


def windows(length: int, size: int) -> np.ndarray:
    """Start offsets of the fewest windows of at most `size` tokens that cover `length` tokens, as even as can be.

    >>> windows(10, 4)
    array([0, 4, 7])
    """
    count = -(-length // size)
    return np.array([(index * length + count - 1) // count for index in range(count)])


def blocks(window_tokens: np.ndarray, tokens_per_block: int) -> Iterator[tuple[slice, slice]]:
    """(windows, tokens) of consecutive blocks of whole windows with at most `tokens_per_block` tokens.

    `window_tokens` (window,) are the lengths of the windows. One that is longer than that is a block of its own.

    >>> list(blocks(np.array([3, 2, 7]), 5))
    [(slice(0, 2, None), slice(0, 5, None)), (slice(2, 3, None), slice(5, 12, None))]
    """
    ends = np.cumsum(window_tokens)
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + tokens_per_block, side="right")))
        yield slice(start, stop), slice(before, int(ends[stop - 1]))
        start = stop
