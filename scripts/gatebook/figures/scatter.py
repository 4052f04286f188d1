"""Scatter plots: points in two dimensions in the look of their category."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from gatebook.figures.style import GRID, INK, MARKERS, MUTED, PALETTE, add_to_legend, house_style, series_styles

OTHERS = "others"
MOST_CATEGORIES = len(PALETTE) * len(MARKERS)


@house_style
def scatter(
    ax: Axes,
    points: ArrayLike,
    categories: Sequence[str],
    order: Sequence[str],
    *,
    large: tuple[ArrayLike, Sequence[str]] | None = None,
    x_label: str = "",
    y_label: str = "",
) -> None:
    """Points of named categories. Axes have no ticks: distances along them are for the eye only.

    Parameters
    ----------
    ax
        Where they are drawn.
    points, categories
        Positions (point, 2) and names (point,); those that are not in `order` are grey and lie below.
    order
        Names in the legend; the first `MOST_CATEGORIES` differ, those of one colour by marker and those of one marker
        by colour; later ones are grey.
    large
        Positions (n, 2) and names (n,) of points drawn larger and with an edge.
    x_label, y_label
        Names of the axes.
    """
    named = list(order[:MOST_CATEGORIES])
    looks = {OTHERS: {"color": GRID, "marker": "o", "zorder": 1.5}}
    for index, name in enumerate(named):
        row, colour = divmod(index, len(PALETTE))
        # Neighbours in the order differ in both, so that no marker stands for a whole row of the palette.
        looks[name] = {"color": PALETTE[colour], "marker": MARKERS[(row + colour) % len(MARKERS)], "zorder": 2}
    edged = {"markersize": 8, "markeredgecolor": INK, "markeredgewidth": 0.8}
    layers = [(points, categories, {"markersize": 4.2, "markeredgewidth": 0}, 0)]
    if large is not None:
        layers.append((*large, edged, 1))
    handles = {}
    for positions, names, size, above in layers:
        positions = np.asarray(positions, float)
        names = np.array([name if name in named else OTHERS for name in names])
        for name, look in looks.items():
            x, y = positions[names == name].T
            if len(x):
                ax.plot(x, y, **look | size | {"linestyle": "none", "zorder": look["zorder"] + above})
                handles[name] = Line2D([], [], **look, linestyle="none", markersize=7, label=name)
    ax.set(xlabel=x_label, ylabel=y_label, xticks=[], yticks=[])
    ax.grid(False)
    add_to_legend(ax.figure, [handles[name] for name in (*named, OTHERS) if name in handles])


@house_style
def against(ax: Axes, groups: dict[str, tuple[ArrayLike, ArrayLike]], *, x_label: str, y_label: str) -> None:
    """Numbers against others of the same unit, on one scale, with the line on which both are equal.

    Parameters
    ----------
    ax
        Where they are drawn.
    groups
        x (point,) and y (point,) by the name of the group, which the legend has.
    x_label, y_label
        Names of the axes.
    """
    styles, handles = series_styles(list(groups)), []
    ends = np.array([(np.nanmin([x, y]), np.nanmax([x, y])) for x, y in groups.values()])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    (line,) = ax.plot([low, high], [low, high], color=MUTED, linewidth=1.1, zorder=1, label="equal")
    for name, (x, y) in groups.items():
        look = styles[name] | {"linestyle": "none"}
        handles += ax.plot(x, y, **look, markersize=4.2, markeredgewidth=0, alpha=0.8, label=name)
    ax.set(xlabel=x_label, ylabel=y_label)
    add_to_legend(ax.figure, [*handles, line])
