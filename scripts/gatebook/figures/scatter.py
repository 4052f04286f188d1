"""Scatter plots: points in two dimensions in the look of their category."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from gatebook.figures.style import GRID, INK, MARKERS, MUTED, PALETTE, add_to_legend, house_style, series_styles
from gatebook.figures.told import Told
from gatebook.figures.words import format_number

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
def against(
    ax: Axes,
    x: Mapping[str, ArrayLike],
    y: ArrayLike,
    names: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    experts: Sequence[tuple[int, int]] = (),
) -> None:
    """Numbers against others of the same unit, with the line on which both are equal.

    Parameters
    ----------
    ax
        Where they are drawn.
    x
        By the name of a group, which the legend has: (point,).
    y, names
        Of all groups: (point,), and what the points are called, (point,).
    x_label, y_label
        Names of the axes.
    experts
        Layer and number of the expert that each point is about, to which readers go from it.
    """
    styles, y = series_styles(list(x)), np.asarray(y, float)
    every = np.concatenate([y, *(np.asarray(each, float) for each in x.values())])
    ends = [np.nanmin(every), np.nanmax(every)]
    handles = ax.plot(ends, ends, color=MUTED, linewidth=1.1, zorder=1, label="equal")
    for group, values in x.items():
        values, look = np.asarray(values, float), styles[group] | {"linestyle": "none"}
        handles += ax.plot(values, y, **look, markersize=4.2, markeredgewidth=0, alpha=0.8, label=group)
        told = [
            f"{name}, {group}: {format_number(float(f'{one:.3g}'))}, {y_label} {format_number(float(f'{other:.3g}'))}"
            for name, one, other in zip(names, values, y, strict=True)
        ]
        Told(ax, values, y, told, experts=experts)
    ax.set(xlabel=x_label, ylabel=y_label)
    add_to_legend(ax.figure, handles)
