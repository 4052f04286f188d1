"""Ribbons and blocks: their sizes are those of what they stand for."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.patches import PathPatch, Rectangle

from gatebook.figures import plotting
from gatebook.figures.blocks import blocks
from gatebook.figures.ribbons import GAP, ribbons

LOOK = {"titles": ("Layer 0", "Layer 1"), "label": "lift", "null": "ids", "limits": (1 / 4, 4)}


def drawn(amounts, ratios):
    drawing, (ax,) = plotting.canvas(4)
    rows, columns = (list(map(str, range(number))) for number in np.shape(amounts))
    ribbons(ax, rows, columns, amounts, ratios, **LOOK)
    return drawing, ax


def test_bars_and_ribbons_are_as_thick_as_what_they_hold():
    amounts = np.array([[3, 1, 0], [0, 2, 4]])
    drawing, ax = drawn(amounts, np.array([[2, 1, np.nan], [1, np.nan, 0]]))
    bars = [patch.get_height() for patch in ax.patches if isinstance(patch, Rectangle)]
    scales = [1 - GAP * (number - 1) for number in (2, 3)]
    wanted = [*np.array([4, 6]) / 10 * scales[0], *np.array([3, 3, 4]) / 10 * scales[1]]
    assert bars == pytest.approx(wanted)
    paths = [patch.get_path().vertices for patch in ax.patches if isinstance(patch, PathPatch)]
    assert len(paths) == 4  # one for each that is not 0
    thick = sorted((points[4][1] - points[3][1]) / scales[1] for points in paths)
    assert thick == pytest.approx(sorted(amounts[amounts > 0] / 10))
    assert max(points[:, 1].max() for points in paths) == pytest.approx(1)
    drawing.canvas.draw()


def test_ribbons_do_not_overlap_at_a_bar():
    rng = np.random.default_rng(0)
    _, ax = drawn(rng.integers(1, 9, (4, 3)), np.ones((4, 3)))
    paths = [patch.get_path().vertices for patch in ax.patches if isinstance(patch, PathPatch)]
    for top, bottom in ((0, 7), (3, 4)):
        ends = sorted((points[top][1], points[bottom][1]) for points in paths)
        assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(ends))


def test_nothing_to_draw_is_said():
    _, ax = drawn(np.zeros((2, 2)), np.ones((2, 2)))
    assert [text.get_text() for text in ax.texts] == ["no data"]


def test_a_block_lies_below_the_one_that_it_is_a_part_of():
    _, (ax,) = plotting.canvas(4)
    blocks(ax, np.array([[1, 2], [1, 3], [4, 3]]), np.array([5, 3, 4]), 24, ["a", "b"], x_label="share")
    found = [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in ax.patches]
    wanted = [(0, 0, 8), (8, 0, 4), (0, 1, 5), (5, 1, 3), (8, 1, 4)]
    np.testing.assert_allclose(found, [(x / 24, y, width / 24) for x, y, width in wanted])
    assert ax.get_xlim() == (0, 0.5)
