"""Ribbons between two columns of bars: what goes where."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import ArrayLike

from gatebook.figures.matrix import colour_bar
from gatebook.figures.style import INK, MUTED, house_style, inches, say_no_data
from gatebook.figures.told import Told
from gatebook.figures.words import format_number

GAP, BAR = 0.012, 0.035
"""Between bars, and their width, as shares of the axes."""
LETTER = 0.13
"""Inches that a name needs."""


@house_style
def ribbons(
    ax: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    amounts: ArrayLike,
    ratios: ArrayLike,
    *,
    titles: tuple[str, str],
    label: str,
    null: str,
    limits: tuple[float, float],
) -> None:
    """Bars on the left and on the right, joined by ribbons as thick as what goes from one to the other.

    Parameters
    ----------
    ax
        Where they are drawn.
    rows, columns
        Names of the bars on the left (R,) and on the right (C,), the first one on top.
    amounts
        What goes from one to the other: (R, C), not negative.
    ratios
        What ribbons are coloured by, on a logarithmic scale: (R, C); those that are not known are grey.
    titles
        Of both columns.
    label
        Name of the colour bar.
    null
        What a ratio of 1 is, in words.
    limits
        Of the colours, such as (1/4, 4).
    """
    amounts, ratios = np.asarray(amounts, float), np.asarray(ratios, float)
    ax.set(xlim=(0, 1), ylim=(1, 0))
    ax.grid(False)
    ax.set_axis_off()
    if not amounts.sum():
        return say_no_data(ax)
    low, high = np.log2(limits)
    colours = ScalarMappable(Normalize(low, high), mpl.colormaps["PuOr_r"])
    shares, tops, scales = amounts / amounts.sum(), [], []
    for side, names in enumerate((rows, columns)):
        size = shares.sum(axis=1 - side)
        scale = 1 - GAP * (len(size) - 1)
        start = (np.cumsum(size) - size) * scale + GAP * np.arange(len(size))
        inside = (np.cumsum(shares, axis=1 - side) - shares) * scale
        tops.append(inside + (start[None, :] if side else start[:, None]))
        scales.append(scale)
        _bars(ax, side, names, start, size * scale, titles[side])
    with np.errstate(divide="ignore"):
        doublings = np.log2(ratios)
    told, middles = [], []
    strength = np.nan_to_num(np.abs(doublings), nan=-1)
    for row, column in sorted(np.argwhere(amounts > 0).tolist(), key=lambda at: strength[*at]):
        known = np.isfinite(ratios[row, column])
        # What is no more than the null gives is faint on a light page and on a dark one.
        look = {
            "facecolor": colours.to_rgba(doublings[row, column]),
            "alpha": min(0.9, 0.2 + 0.7 * strength[row, column]),
        }
        more = f", lift {format_number(ratios[row, column])}" if known else ""
        share = format_number(100 * shares[row, column])
        told.append(f"{rows[row]} → {columns[column]}: {share} %{more}")
        middles.append((0.5, np.mean([top[row, column] for top in tops]) + shares[row, column] / 2))
        outline = _ribbon(*(top[row, column] for top in tops), *(shares[row, column] * scale for scale in scales))
        ax.add_patch(
            PathPatch(
                outline, linewidth=0.2, edgecolor=MUTED, **(look if known else {"facecolor": MUTED, "alpha": 0.12})
            )
        )
    Told(ax, *np.array(middles).T, told)
    known = ratios[np.isfinite(ratios)]
    if known.size:
        colour_bar(ax, colours, known, "ratio", label, {null: 1.0})
    return None


def _bars(ax: Axes, side: int, names: Sequence[str], start: np.ndarray, size: np.ndarray, title: str) -> None:
    """The bars of one side, 0 the left one, with the names that fit."""
    place = {"ha": "left", "x": 1.012} if side else {"ha": "right", "x": -0.012}
    for name, top, height in zip(names, start, size, strict=True):
        ax.add_patch(Rectangle((side * (1 - BAR), top), BAR, height, facecolor=MUTED, linewidth=0))
        if height * inches(ax)[1] > LETTER:
            ax.text(y=top + height / 2, s=name, va="center", color=INK, fontsize=8, **place)
    ax.text(side, -0.02, title, ha="right" if side else "left", va="bottom", color=INK)


def _ribbon(left: float, right: float, thick_left: float, thick_right: float) -> Path:
    """From the left bar to the right one, by their upper ends and its thickness there."""
    start, end, middle = BAR, 1 - BAR, 0.5
    points = [(start, left), (middle, left), (middle, right), (end, right), (end, right + thick_right)]
    points += [(middle, right + thick_right), (middle, left + thick_left), (start, left + thick_left), (start, left)]
    curve = [Path.CURVE4] * 3
    return Path(points, [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY])
