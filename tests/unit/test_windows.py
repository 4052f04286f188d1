"""Windows of a document, and blocks of whole windows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatebook.inputs.windows import blocks, windows


@given(st.integers(1, 500), st.integers(2, 100))
def test_windows_are_the_fewest_that_fit_and_as_even_as_can_be(length, size):
    starts = windows(length, size)
    sizes = np.diff(np.append(starts, length))
    assert starts[0] == 0
    assert sizes.sum() == length
    assert sizes.max() <= size
    assert sizes.max() - sizes.min() <= 1
    assert (len(sizes) - 1) * size < length


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 40))
def test_blocks_are_whole_windows_in_order(lengths: list[int], tokens_per_block: int):
    lengths = np.array(lengths)
    ends = np.append(0, np.cumsum(lengths))
    window = token = 0
    for inside, tokens in blocks(lengths, tokens_per_block):
        assert inside.start == window and tokens.start == token
        assert (tokens.start, tokens.stop) == (ends[inside.start], ends[inside.stop])
        assert tokens.stop - tokens.start <= tokens_per_block or inside.stop - inside.start == 1
        if inside.stop < len(lengths):  # the next window would not have fitted
            assert tokens.stop - tokens.start + lengths[inside.stop] > tokens_per_block
        window, token = inside.stop, tokens.stop
    assert (window, token) == (len(lengths), lengths.sum())
