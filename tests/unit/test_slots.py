"""Slots matched by weight: by hand, and as many and as near as all assignments allow."""

from itertools import permutations

import numpy as np
import pytest

from gatebook.measures.slots import match


def test_matches_by_hand():
    own, others = np.array([0.5, 0.2, 0.3]), np.array([0.21, 0.45, 0.9, 0.305, 0.46])
    first, second = match(own, others, 0.1)
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == {0: 4, 1: 0, 2: 3}
    first, second = match(own, others[1:], 0.05)
    assert (first.tolist(), second.tolist()) == ([2], [2])
    for nothing in (match(own, others[:0], 0.1), match(own[:0], others, 0.1)):
        assert [len(part) for part in nothing] == [0, 0]


def test_matches_are_as_many_as_there_can_be_and_the_nearest():
    rng = np.random.default_rng(0)
    for _ in range(20):
        own, others = rng.uniform(0.1, 0.4, 4), rng.uniform(0.1, 0.4, 5)
        first, second = match(own, others, 0.3)
        assert len(set(second)) == len(second) == len(first)
        apart = np.abs(others - own[:, None]) / own[:, None]
        assert (apart[first, second] <= 0.3).all()
        orders = np.array(list(permutations(range(5), 4)))
        near = apart[np.arange(4), orders]
        best = max(zip((near <= 0.3).sum(axis=1), -np.where(near <= 0.3, near, 0).sum(axis=1), strict=True))
        assert (len(first), -apart[first, second].sum()) == pytest.approx(best)
