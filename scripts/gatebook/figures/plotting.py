"""Figure primitives: chapters hand over plain arrays and labels, and get axes in the house style.

`canvas` (or `small_multiples`) makes a figure, a primitive fills each axes, `figure_files.save` writes the figure.
Rules that hold everywhere: a non-finite value is a gap, never zero; axes without any finite value say "no data"; series
differ by colour and by dash or marker, so that a grey print can be read; text is in ink and never in the colour of a
series, because the lighter colours are too faint for small letters.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from gatebook.figures.matrix import layer_expert_matrix, matrix
from gatebook.figures.style import (
    INK,
    MUTED,
    PALETTE,
    REFERENCE_DASHES,
    EndLabel,
    add_to_legend,
    canvas,
    height_for,
    house_style,
    inches,
    number,
    say_no_data,
    series_styles,
    thinned,
)
from gatebook.figures.told import Told
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.uncertainty import histogram_quantiles

__all__ = [
    "Panel",
    "Reference",
    "Series",
    "canvas",
    "crosses",
    "curves",
    "dot_whiskers",
    "height_for",
    "histograms",
    "layer_expert_matrix",
    "layer_lines",
    "matrix",
    "ranges",
    "small_multiples",
    "stacked_bars",
]

Limits = tuple[float | None, float | None]
TICK_INCHES = 0.35
"""Room of the label of a tick along an x axis."""
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")
"""Of the parts of bars, which a grey print must tell apart."""


@dataclass(frozen=True)
class Series:
    """One named estimate per position (layer, x or row) with an optional interval; each array is (positions,)."""

    label: str
    estimate: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"The interval of {self.label!r} needs both ends, or neither.")


@dataclass(frozen=True)
class Reference:
    """A named null or reference: one value for all positions, or one for each, and the ends of its interval if any."""

    label: str
    value: float | ArrayLike
    low: float | ArrayLike | None = None
    high: float | ArrayLike | None = None


@dataclass(frozen=True)
class Panel:
    """One cell of `small_multiples`: a title and the arguments of `layer_lines`, or of what draws it."""

    title: str
    layers: Sequence[int]
    series: Sequence[Series]
    references: Sequence[Reference] = ()
    y_label: str = ""


# ---------------------------------------------------------------- lines


@house_style
def layer_lines(
    ax: Axes,
    layers: Sequence[int],
    series: Sequence[Series],
    references: Sequence[Reference] = (),
    *,
    y_label: str = "",
    x_label: str = "Layer",
    y_limits: Limits = (None, None),
    labels: Literal["end", "legend"] = "end",
    order: Sequence[str] | None = None,
) -> None:
    """Lines over layers with interval bands and reference lines; a layer without neighbours is a point with a bar.

    Parameters
    ----------
    ax
        Where they are drawn.
    layers
        Increasing layer numbers: (L,).
    series
        Estimates, low and high: (L,).
    references
        One value each, or (L,).
    y_label, x_label
        Names of the axes.
    y_limits
        Of the y axis, in its unit; None leaves an end to the data.
    labels
        At the line ends (none for a single line without references), or in the legend of the figure.
    order
        All series labels of a chapter, which fixes the colour, dash and marker of each label; without it the order of
        `series` does.
    """
    layers = np.asarray(layers)
    _draw_all(ax, layers, series, references, labels, order, x_label)
    ax.set(xlabel=x_label, ylabel=y_label, xlim=(layers[0] - 0.5, layers[-1] + 0.5))
    _limit_y(ax, y_limits)
    ax.xaxis.grid(False)
    ticks = thinned(layers, inches(ax)[0] * 4)
    ax.set_xticks(layers[ticks], [str(layer) for layer in layers[ticks]])
    ax.yaxis.set_major_formatter(FuncFormatter(number))


@house_style
def curves(
    ax: Axes,
    x: ArrayLike,
    series: Sequence[Series],
    references: Sequence[Reference] = (),
    *,
    x_label: str = "",
    y_label: str = "",
    x_scale: Literal["linear", "log", "symlog"] = "linear",
    y_scale: Literal["linear", "log"] = "linear",
    y_limits: Limits = (None, None),
    labels: Literal["end", "legend"] = "end",
    order: Sequence[str] | None = None,
) -> None:
    """Lines with interval bands over numeric, increasing x: training, capacity and sorted-load curves.

    Parameters
    ----------
    ax
        Where they are drawn.
    x
        (n,); positive on a logarithmic axis.
    series, references
        As those of `layer_lines`. On a logarithmic y axis an estimate that is not positive is a gap.
    x_label, y_label, y_limits, labels, order
        As those of `layer_lines`.
    x_scale, y_scale
        Of the axes; "symlog" is logarithmic from the smallest positive x on and linear below it, with ticks at values
        of x as far as they fit.

    Raises
    ------
    ValueError
        If x is not positive on a logarithmic axis.
    """
    x = np.asarray(x, float)
    if x_scale == "log" and (x <= 0).any():
        raise ValueError("A logarithmic x axis needs positive x values.")
    ax.set_xscale(x_scale, **({"linthresh": min(x[x > 0], default=1)} if x_scale == "symlog" else {}))
    if y_scale == "log":
        ax.set_yscale("log", nonpositive="clip")
        series = [replace(one, estimate=_positive(one.estimate)) for one in series]
        references = [replace(one, value=_positive(one.value)) for one in references]
    _draw_all(ax, x, series, references, labels, order, x_label)
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.margins(x=0.02)
    _limit_y(ax, y_limits)
    _number_ticks(ax.xaxis)
    if x_scale == "symlog":
        ax.set_xticks(_far_apart(ax, x), minor=False)
        ax.set_xticks([], minor=True)
    _number_ticks(ax.yaxis)


@house_style
def small_multiples(
    panels: Sequence[Panel | None],
    *,
    columns: int = 3,
    panel_height: float = 1.75,
    share_y: bool = True,
    x_label: str = "Layer",
    y_limits: Limits = (None, None),
    order: Sequence[str] | None = None,
    draw: Callable[..., None] | None = None,
) -> Figure:
    """A grid of `layer_lines` panels in reading order with one legend.

    Parameters
    ----------
    panels
        None leaves a cell empty.
    columns
        At most so many side by side.
    panel_height
        In inches.
    share_y
        One y scale for all panels, with the y label in the first column only; otherwise each panel has its own.
    x_label, y_limits
        As those of `layer_lines`, of every panel.
    order
        A label has the same colour in every panel: its position here, or else in the order of first appearance.
    draw
        What draws a panel instead of `layer_lines`, from the same arguments, such as `curves` with a scale.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    cells = [*panels, *[None] * (rows * columns - len(panels))]
    titles = [cell.title if cell else "" for cell in cells]
    figure, axes = canvas(rows * panel_height + 0.6, rows=rows, columns=columns, titles=titles, share_y=share_y)
    order = order or list(dict.fromkeys(one.label for cell in cells if cell for one in cell.series))
    for index, (ax, cell) in enumerate(zip(axes, cells, strict=True)):
        if cell is None:
            ax.set_axis_off()
            continue
        is_lowest = index + columns >= len(cells) or cells[index + columns] is None
        is_leftmost = index % columns == 0 or cells[index - 1] is None
        (draw or layer_lines)(
            ax,
            cell.layers,
            cell.series,
            cell.references,
            x_label=x_label,
            y_label=cell.y_label if is_leftmost or not share_y else "",
            labels="legend",
            order=order,
        )
        if not is_lowest:
            ax.set_xlabel("")
        if share_y and is_leftmost:
            ax.tick_params(labelleft=True)
    # Last, because an open limit is closed at the data of all panels that share the axis.
    for ax in axes:
        _limit_y(ax, y_limits)
    return figure


def _draw_all(
    ax: Axes,
    x: np.ndarray,
    series: Sequence[Series],
    references: Sequence[Reference],
    labels: str,
    order: Sequence[str] | None,
    x_label: str,
) -> None:
    """Draw series and references over x, and label them at the line ends or in the legend of the figure."""
    places = [f"{x_label} {format_number(one)}".strip() for one in x]
    styles = series_styles(order or [one.label for one in series])
    ends: list[tuple[Line2D, float | None, float]] = []
    for index, one in enumerate(series):
        # With a single layer the points would hide one another: they stand side by side.
        at = x + (index - (len(series) - 1) / 2) * 0.06 if len(x) == 1 else x
        y, low, high = _finite(one)
        line = _draw_line(ax, at, y, styles[one.label], index)
        line.set_label(one.label)
        _draw_band(ax, at, low, high, line.get_color())
        Told(ax, at, y, _sentences([f"{place}, {one.label}" for place in places], y, low, high))
        finite = np.flatnonzero(np.isfinite(y))
        if len(finite):
            ends.append((line, at[finite[-1]], y[finite[-1]]))
    if not ends:
        return say_no_data(ax)
    for index, one in enumerate(references):
        value = np.asarray(one.value, float)
        finite = np.flatnonzero(np.isfinite(value))
        if len(finite) == 0:
            continue
        line = _draw_reference(ax, x, value, index)
        low, high = (
            np.broadcast_to(np.asarray(np.nan if end is None else end, float), x.shape) for end in (one.low, one.high)
        )
        if one.low is not None:
            _draw_band(ax, x, low, high, MUTED, zorder=1.8)
        values = np.broadcast_to(value, x.shape)
        Told(ax, x, values, _sentences([f"{place}, {one.label}" for place in places], values, low, high))
        line.set_label(one.label)
        ends.append((line, x[finite[-1]] if value.size > 1 else None, value.flat[finite[-1]]))
    if labels == "legend":
        add_to_legend(ax.figure, [line for line, _, _ in ends])
    elif len(ends) > 1:
        for line, end_x, end_y in ends:
            EndLabel(ax, line, end_x, end_y)
    return None


def _draw_line(ax: Axes, x: np.ndarray, y: np.ndarray, style: dict, index: int) -> Line2D:
    """One line. More than 20 points carry markers at even distances only; points without neighbours always do."""
    every = (0.015 * index, 0.09) if len(x) > 20 else None
    (line,) = ax.plot(x, y, **style, markevery=every, zorder=3)
    alone = _alone(y)
    ax.plot(x[alone], y[alone], **(style | {"linestyle": "none"}), zorder=3)
    return line


def _draw_band(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, zorder: float = 2) -> None:
    """The interval as a band, and as a bar where a point has no neighbour to form a band with."""
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, zorder=zorder)
    alone = _alone(low)
    ax.vlines(x[alone], low[alone], high[alone], color=colour, linewidth=1.4, zorder=zorder + 1)


def _draw_reference(ax: Axes, x: np.ndarray, value: np.ndarray, index: int) -> Line2D:
    """A horizontal line across the axes for a single value, else a line over x."""
    look = {
        "color": MUTED,
        "linestyle": REFERENCE_DASHES[index % len(REFERENCE_DASHES)],
        "linewidth": 1.1,
        "zorder": 1.9,
    }
    if value.size == 1:
        return ax.axhline(value.item(), **look)
    (line,) = ax.plot(x, value, **look)
    alone = _alone(value)
    ax.plot(x[alone], value[alone], **(look | {"linestyle": "none", "marker": "_", "markersize": 14}))
    return line


# ---------------------------------------------------------------- rows and distributions


@house_style
def dot_whiskers(
    ax: Axes,
    rows: Sequence[str],
    series: Sequence[Series],
    references: Sequence[Reference] = (),
    *,
    x_label: str = "",
    x_limits: Limits = (None, None),
    order: Sequence[str] | None = None,
) -> None:
    """Estimate and interval for each labelled row, first row on top; up to three series side by side in a row.

    Series and references are named in the legend of the figure, unless there is a single series without references.

    Parameters
    ----------
    ax
        Where they are drawn.
    rows
        Names: (R,).
    series
        Estimates, low, high: (R,).
    references
        Vertical lines, one value each.
    x_label, x_limits
        Of the x axis.
    order
        As that of `layer_lines`.
    """
    styles = series_styles(order or [one.label for one in series])
    handles: list[Artist] = []
    for index, one in enumerate(series):
        y = np.arange(len(rows)) + (index - (len(series) - 1) / 2) * 0.24
        look = styles[one.label] | {"linestyle": "none"}
        x, low, high = _finite(one)
        handles += ax.plot(x, y, **look, markersize=5, zorder=3, label=one.label)
        ax.hlines(y, low, high, color=look["color"], linewidth=1.4, zorder=2)
        names = [f"{row}, {one.label}" if one.label else str(row) for row in rows]
        Told(ax, x, y, _sentences(names, x, low, high))
    for index, one in enumerate(references):
        dash = REFERENCE_DASHES[index % len(REFERENCE_DASHES)]
        handles.append(ax.axvline(float(one.value), color=MUTED, linestyle=dash, linewidth=1.1, label=one.label))
        if one.low is not None:
            ax.axvspan(float(one.low), float(one.high), color=MUTED, alpha=0.18, linewidth=0, zorder=1)
    ax.set(xlabel=x_label, xlim=x_limits, ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), [textwrap.fill(str(row), 28) for row in np.asarray(rows)])
    ax.tick_params(axis="y", length=0)
    _number_ticks(ax.xaxis)
    if not any(np.isfinite(_finite(one)[0]).any() for one in series):
        say_no_data(ax)
    elif len(handles) > 1:
        add_to_legend(ax.figure, handles)


@house_style
def crosses(ax: Axes, rows: Sequence[str], x: Series, y: Series, *, chance: str = "") -> None:
    """A named point for each row, with intervals in both directions; the legend of the figure has the names.

    Parameters
    ----------
    ax
        Where they are drawn.
    rows
        Names: (R,), at most six beside `chance`.
    x, y
        Estimates, low, high: (R,); their labels are those of the axes. Without an estimate in both there is no point.
    chance
        The name of what is drawn in grey, as the reference.
    """
    styles = series_styles([row for row in rows if row != chance])
    (at_x, low_x, high_x), (at_y, low_y, high_y) = _finite(x), _finite(y)
    handles: list[Artist] = []
    for index, row in enumerate(rows):
        look = styles.get(row, {"color": MUTED, "marker": "X"}) | {"linestyle": "none"}
        place = at_x[index], at_y[index]
        (handle,) = ax.plot(*([one] for one in place), **look, markersize=5, zorder=3, label=row)
        ax.hlines(place[1], low_x[index], high_x[index], color=look["color"], linewidth=1.4, zorder=2)
        ax.vlines(place[0], low_y[index], high_y[index], color=look["color"], linewidth=1.4, zorder=2)
        told = [
            _sentences([one.label], *([part[index]] for part in parts))[0]
            for one, parts in ((x, (at_x, low_x, high_x)), (y, (at_y, low_y, high_y)))
        ]
        Told(ax, [place[0]], [place[1]], [f"{row}, {told[0]}, {told[1]}"])
        if np.isfinite(place).all():
            handles.append(handle)
    ax.set(xlabel=x.label, ylabel=y.label)
    for axis in (ax.xaxis, ax.yaxis):
        _number_ticks(axis)
    if not handles:
        return say_no_data(ax)
    return add_to_legend(ax.figure, handles)


@house_style
def stacked_bars(
    ax: Axes,
    rows: Sequence[str],
    parts: Mapping[str, ArrayLike],
    *,
    x_label: str = "",
    x_limits: Limits = (None, None),
) -> None:
    """A bar for each labelled row, first row on top, made of parts side by side, which the legend of the figure names.

    Parameters
    ----------
    ax
        Where they are drawn.
    rows
        Names: (R,).
    parts
        By name, at most six: their lengths (R,), not negative. One that is not finite, and all after it, is left out.
    x_label, x_limits
        Of the x axis.
    """
    looks, y = series_styles(list(parts)), np.arange(len(rows))
    lengths = np.array([np.asarray(values, float) for values in parts.values()])
    ends = np.cumsum(lengths, axis=0)
    handles: list[Artist] = []
    for index, name in enumerate(parts):
        known = np.isfinite(ends[index])
        fill = {"facecolor": looks[name]["color"], "hatch": HATCHES[index], "linewidth": 0, "edgecolor": "white"}
        start = (ends[index] - lengths[index])[known]
        ax.barh(y[known], lengths[index][known], 0.7, start, **fill, zorder=2)
        handles.append(Patch(**fill, label=name))
        none = np.full(len(rows), np.nan)
        Told(
            ax,
            ends[index] - lengths[index] / 2,
            y,
            _sentences([f"{row}, {name}" for row in rows], lengths[index], none, none),
        )
    ax.set(xlabel=x_label, xlim=x_limits, ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(y, [textwrap.fill(str(row), 28) for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.yaxis.grid(False)
    _number_ticks(ax.xaxis)
    if not np.isfinite(ends).any():
        say_no_data(ax)
    add_to_legend(ax.figure, handles)


@house_style
def histograms(
    ax: Axes,
    edges: ArrayLike,
    counts: ArrayLike,
    layers: Sequence[int],
    *,
    label: str = "",
    outline: tuple[str, ArrayLike] | None = None,
    reference: Reference | None = None,
    x_label: str = "",
    x_scale: Literal["linear", "log"] = "linear",
) -> None:
    """One distribution per layer, layer 0 on top, with marks at the median and at the 10 % and 90 % quantiles.

    Heights are densities along the axis as drawn; each distribution is scaled to its own maximum. One whose counts are
    not finite or sum to zero is left out.

    Parameters
    ----------
    ax
        Where they are drawn.
    edges
        Of the bins, increasing, positive on a log scale: (B + 1,).
    counts
        (L, B).
    layers
        Layer numbers: (L,).
    label
        Name of the filled distributions.
    outline
        Name and counts (L, B) of a second one per layer, drawn as a line without marks.
    reference
        A vertical line at one value, or one value per layer.
    x_label, x_scale
        Of the x axis.
    """
    edges, layers, rows = np.asarray(edges, float), np.asarray(layers), np.arange(len(layers))
    widths = np.diff(np.log(edges) if x_scale == "log" else edges)
    filled = _heights(counts, widths)
    outlined = _heights(outline[1], widths) if outline else np.full_like(filled, np.nan)
    ax.set(xscale=x_scale, xlabel=x_label, ylabel="Layer", xlim=(edges[0], edges[-1]), ylim=(len(rows) - 0.9, -1))
    _number_ticks(ax.xaxis)
    if not np.isfinite(filled).any() and not np.isfinite(outlined).any():
        return say_no_data(ax)
    fill = {"fill": True, "facecolor": PALETTE[0], "alpha": 0.4, "linewidth": 0}
    for row in rows:
        ax.stairs(row - filled[row], edges, baseline=row, **fill)
        ax.stairs(row - outlined[row], edges, baseline=row, color=PALETTE[1], linewidth=1)
    quantiles = histogram_quantiles(np.asarray(counts, float), np.asarray(edges, float), (0.1, 0.5, 0.9))
    for column, height, width in ((0, 0.35, 0.9), (1, 0.85, 1.4), (2, 0.35, 0.9)):
        ax.vlines(quantiles[:, column], rows - height, rows, color=INK, linewidth=width, zorder=4)
    Told(ax, quantiles[:, 1], rows - 0.4, _spreads([f"Layer {layer}" for layer in layers], quantiles))
    ticks = thinned(layers, inches(ax)[1] * 5)
    ax.set_yticks(ticks, [str(layers[i]) for i in ticks])
    handles: list[Artist] = [Patch(**fill, label=label)] if label else []
    handles += [Line2D([], [], color=PALETTE[1], linewidth=1, label=outline[0])] if outline else []
    for name, size in (("median", 10), ("10 % and 90 %", 5)):
        handles.append(Line2D([], [], color=INK, linestyle="none", marker="|", markersize=size, label=name))
    if reference is not None:
        look = {"color": MUTED, "linestyle": "--", "linewidth": 1.1, "label": reference.label}
        handles.append(ax.vlines(np.broadcast_to(reference.value, len(rows)), rows - 1, rows, **look))
    add_to_legend(ax.figure, handles)
    return None


def _heights(counts: ArrayLike, widths: np.ndarray) -> np.ndarray:
    """Heights (L, B) of ridges: densities with maximum 0.85; NaN in empty bins and in rows without counts."""
    densities = np.asarray(counts, float) / widths
    highest = densities.max(axis=1, keepdims=True)
    usable = (densities > 0) & np.isfinite(highest)
    return 0.85 * np.divide(densities, highest, out=np.full_like(densities, np.nan), where=usable)


@house_style
def ranges(
    ax: Axes,
    x: ArrayLike,
    quantiles: ArrayLike,
    reference: Reference | None = None,
    *,
    x_label: str = "",
    y_label: str = "",
    y_scale: Literal["linear", "log"] = "linear",
) -> None:
    """Distributions at integer positions without an order between them, such as experts: a dot on a bar for each.

    Parameters
    ----------
    ax
        Where they are drawn.
    x
        Integers, increasing: (n,).
    quantiles
        Low end of the bar, dot, high end: (n, 3), such as the 10 %, 50 % and 90 % quantiles. On a logarithmic axis
        those that are not positive are gaps.
    reference
        A horizontal line at one value.
    x_label, y_label, y_scale
        Of the axes.
    """
    x, (low, middle, high) = np.asarray(x), np.asarray(quantiles, float).T
    ax.set(xlabel=x_label, ylabel=y_label, yscale=y_scale, xlim=(x[0] - 0.8, x[-1] + 0.8))
    ax.xaxis.grid(False)
    ticks = thinned(x, inches(ax)[0] * 4)
    ax.set_xticks(x[ticks], [str(one) for one in x[ticks]])
    if y_scale == "log":
        low, middle, high = (_positive(part) for part in (low, middle, high))
    if not np.isfinite(middle).any():
        return say_no_data(ax)
    ax.vlines(x, low, high, color=PALETTE[0], alpha=0.45, linewidth=min(2.4, 60 / len(x)), zorder=2)
    Told(ax, x, middle, _spreads([f"{x_label} {one}" for one in x], np.asarray(quantiles, float)))
    size = min(4, 120 / len(x))
    handles = ax.plot(x, middle, "o", color=PALETTE[0], markersize=size, zorder=3, label="median, 10 % to 90 %")
    if reference is not None:
        look = {"color": MUTED, "linestyle": REFERENCE_DASHES[0], "linewidth": 1.1, "label": reference.label}
        handles.append(ax.axhline(float(reference.value), **look))
    add_to_legend(ax.figure, handles)
    _number_ticks(ax.yaxis)
    return None


# ---------------------------------------------------------------- values and axes


def _sentences(names: Sequence[str], estimate: ArrayLike, low: ArrayLike, high: ArrayLike) -> list[str]:
    """What is told at estimates (n,) with their names: the estimate and its interval, if it has one."""
    sentences = []
    for name, *values in zip(names, *(np.asarray(part, float).tolist() for part in (estimate, low, high)), strict=True):
        text = format_estimate(*values)
        sentences.append(f"{name}: {text.estimate}" + (f" {text.interval}" if math.isfinite(values[1]) else ""))
    return sentences


def _spreads(names: Sequence[str], quantiles: np.ndarray) -> list[str]:
    """What is told at the medians of distributions with their names, from the quantiles 10 %, 50 % and 90 % (n, 3)."""
    return [
        f"{name}: median {format_number(middle)}, 10 % to 90 %: {format_number(low)} to {format_number(high)}"
        for name, (low, middle, high) in zip(names, quantiles.tolist(), strict=True)
    ]


def _finite(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, low and high as floats; NaN where the estimate, or one end of the interval, is not finite."""
    estimate = np.asarray(series.estimate, float)
    estimate = np.where(np.isfinite(estimate), estimate, np.nan)
    if series.low is None:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    low, high = np.asarray(series.low, float), np.asarray(series.high, float)
    known = np.isfinite(estimate) & np.isfinite(low) & np.isfinite(high)
    return estimate, np.where(known, low, np.nan), np.where(known, high, np.nan)


def _alone(values: np.ndarray) -> np.ndarray:
    """True where a finite value has no finite neighbour, so that no line segment would show it."""
    padded = np.concatenate([[False], np.isfinite(values), [False]])
    return padded[1:-1] & ~padded[:-2] & ~padded[2:]


def _positive(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, float)
    return np.where(values > 0, values, np.nan)


def _limit_y(ax: Axes, limits: Limits) -> None:
    # Without this test matplotlib would freeze the axis at the data drawn so far.
    if limits != (None, None):
        ax.set_ylim(*limits)


def _far_apart(ax: Axes, x: np.ndarray) -> list[float]:
    """The first and the last value, and others, from the last one on, whose tick labels have room on the x axis."""
    place = ax.xaxis.get_transform().transform(x)
    place = (place - place[0]) * inches(ax)[0] / max(place[-1] - place[0], 1e-12)
    kept = [len(x) - 1]
    for index in range(len(x) - 2, 0, -1):
        if min(place[kept[-1]] - place[index], place[index]) >= TICK_INCHES:
            kept.append(index)
    return sorted({float(x[0]), *x[kept].tolist()})


def _number_ticks(axis: Axis) -> None:
    """Plain numbers as tick labels; on a log axis at 1, 2, 5 or all digits when it spans few powers of ten."""
    axis.set_major_formatter(FuncFormatter(number))
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        digits = (1,) if high > 100 * low else (1, 2, 5) if high > 5 * low else range(1, 10)
        axis.set_major_locator(LogLocator(subs=digits))
        axis.set_minor_formatter(NullFormatter())
