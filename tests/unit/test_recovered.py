"""Shares of the gap: by hand, and how often their intervals cover the true share."""

import numpy as np
import pytest

from gatebook.measures.recovered import answered, does, left, ratio, resampled, shares

CLEAN = np.array([4.0, 6.0, -1.0, -3.0])  # two pairs: clean and then corrupt prompts


def test_shares_by_hand():
    patched = np.array([[4.0, 0.0, 1.0, -3.0], [4.0, 6.0, -1.0, -3.0]])
    moved = shares(patched, CLEAN)  # (pair, direction, row)
    assert moved[..., 0].tolist() == [[2, 0], [0, 6]] and not moved[..., 1].any()
    gap = left(CLEAN)
    assert gap.tolist() == [5, 9]
    resampling = resampled(["a", "b"], 100, 1, "task")
    found = ratio(resampling, moved, gap)
    assert found.shape == (101, 2, 2)
    np.testing.assert_allclose(found[0, :, 0], [2 / 14, 6 / 14])


def test_the_whole_other_prompt_recovers_everything():
    exchanged = np.roll(CLEAN, 2)
    np.testing.assert_array_equal(shares(exchanged, CLEAN), np.stack([left(CLEAN)] * 2, axis=1))
    np.testing.assert_array_equal(left(exchanged), -left(CLEAN))


def test_ratios_are_of_means_and_unknown_by_nothing():
    resampling = resampled(["a", "a", "b"], 50, 1, "task")
    above, below = np.array([1.0, 3.0, 2.0]), np.array([2.0, 2.0, 8.0])
    found = ratio(resampling, above, below)
    assert found[0] == pytest.approx(0.5)
    assert set(np.round(found, 6)) == {0.5, 1.0, 0.25}  # with one source drawn each time
    assert np.isnan(ratio(resampling, above, np.zeros(3))).all()


def test_answers_and_the_gate():
    right, flips = answered(np.array([2.0, -1.0, 0.0, -1.0, 1.0, 0.0]))
    assert right.tolist() == [1, 0, 0.5] and flips.tolist() == [1, 0, 0.5]
    assert does((0.9, 0.6, 1), (0.8, 0.51, 1))
    assert not does((0.9, 0.6, 1), (0.8, 0.5, 1)) and not does((0.9, np.nan, np.nan), (1, 1, 1))


def test_intervals_cover_the_true_share():
    rng, share, inside = np.random.default_rng(3), 0.3, 0
    for trial in range(150):
        of_source = rng.normal(8, 2, 25)
        gap = np.repeat(of_source, 2) + rng.normal(0, 1, 50)
        moved = share * gap + np.repeat(rng.normal(0, 1, 25), 2) + rng.normal(0, 0.5, 50)
        draws = ratio(resampled(np.repeat(np.arange(25), 2), 200, trial, "task"), moved, gap)[1:]
        low, high = np.quantile(draws, [0.025, 0.975])
        inside += low <= share <= high
    assert 0.9 <= inside / 150 <= 0.99
