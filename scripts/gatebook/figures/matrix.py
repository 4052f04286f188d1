"""Colour matrices: layers x experts, layers x data sets, any rows x columns."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.image import AxesImage
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from gatebook.figures.style import MUTED, house_style, inches, number, say_no_data, thinned
from gatebook.figures.told import MOST, Told
from gatebook.figures.words import format_number

MOST_ANNOTATED = 150  # cells; more numbers than that do not fit at 8 points
RATIO_ENDS = (0.125, 0.25, 0.5, 1, 2, 3, 4)  # default colour limits of ratios, in doublings


@house_style
def layer_expert_matrix(
    ax: Axes,
    values: ArrayLike,
    layers: Sequence[int],
    experts: Sequence[int],
    *,
    kind: Literal["ratio", "magnitude"],
    label: str,
    uncertain: ArrayLike | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """`matrix` with layers downwards, layer 0 on top, and experts to the right.

    Parameters
    ----------
    ax
        Where it is drawn.
    values
        (L, E).
    layers, experts
        Their numbers: (L,), (E,).
    kind, label, uncertain, limits
        As those of `matrix`.
    """
    names = {"y_label": "Layer", "x_label": "Expert"}
    matrix(
        ax,
        values,
        layers,
        experts,
        kind=kind,
        label=label,
        uncertain=uncertain,
        limits=limits,
        of_experts=True,
        **names,
    )


@house_style
def matrix(
    ax: Axes,
    values: ArrayLike,
    rows: Sequence[str | int],
    columns: Sequence[str | int],
    *,
    kind: Literal["ratio", "magnitude"],
    label: str,
    uncertain: ArrayLike | None = None,
    limits: tuple[float, float] | None = None,
    nulls: Mapping[str, float] = MappingProxyType({}),
    annotate: str | None = None,
    y_label: str = "",
    x_label: str = "",
    of_experts: bool = False,
) -> None:
    """A colour matrix over a colour bar; the first row is on top.

    Values beyond the limits have the colour of the limit, and the name of the colour bar states the clip. Non-finite
    cells show the page behind a crossed hatch.

    Parameters
    ----------
    ax
        Where it is drawn.
    values
        (R, C).
    rows, columns
        Their names: (R,), (C,). Integers are thinned to what fits, text is not.
    kind
        "ratio": plain ratios to a null (1 = as the null), shown as log2 on diverging colours around 1. A ratio of 0
        (nothing observed) is a value: it has the colour of the lower limit. "magnitude": values on a sequential scale.
    label
        Name of the colour bar.
    uncertain
        Cells to hatch: (R, C) bool.
    limits
        Of ratios reciprocal, (1/4, 4) for instance, by default the tightest of RATIO_ENDS that holds 99 % of the
        positive ratios; of magnitudes by default (0, largest value).
    nulls
        Value of each null by its name: lines across the colour bar, whose name states them and those beyond its ends.
        That of a ratio is 1 and is always drawn.
    annotate
        A format such as ".2f" writes the values into the cells of a matrix of at most MOST_ANNOTATED cells.
    y_label, x_label
        Names of the axes.
    of_experts
        Rows are layers and columns their experts, to which readers go from their cells.

    Raises
    ------
    ValueError
        Wrong shape, negative ratios, negative magnitudes without limits, ratio limits that are not reciprocal.
    """
    values, rows, columns = np.asarray(values, float), np.asarray(rows), np.asarray(columns)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values have shape {values.shape}, but there are {len(rows)} rows and {len(columns)} columns."
        )
    ax.set(xlabel=x_label, ylabel=y_label)
    known = np.isfinite(values)
    if not known.any():
        ax.set_xticks([])
        return say_no_data(ax)
    lowest = values[known].min()
    if lowest < 0 and (kind == "ratio" or limits is None):
        raise ValueError(f"A matrix of kind {kind!r} without limits cannot show the negative value {lowest:g}.")
    image = {"ratio": _draw_ratios, "magnitude": _draw_magnitudes}[kind](ax, values, limits)
    colour_bar(ax, image, values[known], kind, label, nulls)
    _name_cells(ax, rows, columns)
    _hatch(ax, ~known, "xxxx", MUTED, 0.7)
    if uncertain is not None:
        # Dark lines with a light casing show on every colour of the map, in either theme.
        _hatch(ax, known & np.asarray(uncertain, bool), "///", "#ffffff", 1.8)
        _hatch(ax, known & np.asarray(uncertain, bool), "///", "#000000", 0.7)
    if annotate is not None and values.size <= MOST_ANNOTATED:
        _annotate(ax, image, values, annotate)
    if values.size <= MOST:
        cells = [(row, column) for row in rows.tolist() for column in columns.tolist()]
        labels = (y_label, x_label.lower()) if of_experts else (y_label, x_label)
        named = (
            ", ".join(f"{label} {name}".strip() for label, name in zip(labels, cell, strict=True)) for cell in cells
        )
        told = [f"{name}: {format_number(value)}" for name, value in zip(named, values.flat, strict=True)]
        y, x = np.indices(values.shape).reshape(2, -1)
        Told(ax, x, y, told, experts=cells if of_experts else ())
    return None


def _draw_ratios(ax: Axes, values: np.ndarray, limits: tuple[float, float] | None) -> AxesImage:
    with np.errstate(divide="ignore"):
        doublings = np.log2(values)
    if limits is None:
        end = ratio_end(values)
    elif limits[1] > 1 and math.isclose(limits[0] * limits[1], 1):
        end = math.log2(limits[1])
    else:
        raise ValueError(f"The limits of a ratio must be reciprocal, (1/4, 4) for instance, not {limits}.")
    # A ratio of 0 has no logarithm; a value far below the lower limit stands for it.
    return _draw_image(ax, np.where(values == 0, -1e9, doublings), "PuOr_r", (-end, end))


def ratio_end(values: np.ndarray) -> float:
    """The smallest of `RATIO_ENDS`, in doublings, that holds 99 % of the positive ratios; the largest if none does."""
    doublings = np.abs(np.log2(values[np.isfinite(values) & (values > 0)]))
    needed = np.quantile(doublings, 0.99) if doublings.size else 0
    return next((end for end in RATIO_ENDS if end >= needed), RATIO_ENDS[-1])


def _draw_magnitudes(ax: Axes, values: np.ndarray, limits: tuple[float, float] | None) -> AxesImage:
    largest = values[np.isfinite(values)].max()
    return _draw_image(ax, values, "cividis", limits or (0, largest if largest > 0 else 1))


def _draw_image(ax: Axes, shown: np.ndarray, colours: str, limits: tuple[float, float]) -> AxesImage:
    ax.grid(False)
    # interpolation "none" embeds one pixel per cell: a small file and sharp cells at any size.
    look = {"cmap": colours, "vmin": limits[0], "vmax": limits[1], "aspect": "auto", "interpolation": "none"}
    return ax.imshow(np.ma.masked_invalid(shown), **look)


def colour_bar(
    ax: Axes, image: ScalarMappable, known: np.ndarray, kind: str, label: str, nulls: Mapping[str, float]
) -> None:
    """Colour bar below the axes, with a line at each null and an arrow at an end beyond which there are values; its
    name states the nulls and the clip.

    Parameters
    ----------
    ax
        What it belongs to.
    image
        Whose colours it shows, those of doublings for ratios.
    known
        The values that have colours, (n,).
    kind
        "ratio" or "magnitude".
    label
        Its name.
    nulls
        By their names.
    """
    low, high = image.get_clim()
    ends = (2**low, 2**high) if kind == "ratio" else (low, high)
    is_below, is_above = known.min() < ends[0], known.max() > ends[1]
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[is_below, is_above]
    look = {"location": "bottom", "shrink": 0.7, "aspect": 34, "pad": 0.12 / ax.figure.get_figheight()}
    bar = ax.figure.colorbar(image, ax=ax, extend=extend, **look)
    bar.solids.set_rasterized(True)
    if kind == "ratio":
        step = math.ceil(high / inches(ax)[0]) if high >= 1 else high
        above = np.arange(step, high + 1e-9, step)
        ticks = [*-above[::-1], 0, *above]
        bar.set_ticks(ticks, labels=[_ratio(tick) for tick in ticks])
        label = f"{label} (log scale, clipped at {_ratio(low)} and {_ratio(high)})"
    else:
        bar.ax.xaxis.set_major_formatter(FuncFormatter(number))
        if is_below or is_above:
            label = f"{label} (clipped at {number(low)} and {number(high)})"
    inside = {name: value for name, value in nulls.items() if ends[0] <= value <= ends[1]}
    for value in [0] if kind == "ratio" else inside.values():
        for colour, width in (("#ffffff", 3.5), ("#000000", 1.5)):  # seen on every colour
            bar.ax.axvline(value, color=colour, linewidth=width)
    outside = {name: value for name, value in nulls.items() if np.isfinite(value) and name not in inside}
    for word, those in (("line", inside), ("beyond the scale", outside)):
        if those:
            label = f"{label}; {word}: {', '.join(f'{name} {value:.2g}' for name, value in those.items())}"
    bar.set_label(textwrap.fill(label, int(inches(ax)[0] * 14)))


def _ratio(doublings: float) -> str:
    """2 to the power of `doublings` as a reader says it: 1/4, 1, 4, and 1.19 between whole powers."""
    if doublings < 0 and float(doublings).is_integer():
        return f"1/{2**-doublings:g}"
    return f"{2**doublings:.3g}"


def _name_cells(ax: Axes, rows: np.ndarray, columns: np.ndarray) -> None:
    width, height = inches(ax)
    shown = thinned(rows, height * 6)
    ax.set_yticks(shown, [textwrap.fill(str(rows[i]), 28) for i in shown])
    shown = thinned(columns, width * 4)
    names = [str(columns[i]) for i in shown]
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(shown, names, **(slanted if max(map(len, names)) * len(names) > width * 12 else {}))


def _hatch(ax: Axes, cells: np.ndarray, pattern: str, colour: str, width: float) -> None:
    """Hatch the True cells. Neighbours in a row become one rectangle, which keeps the file small."""
    rectangles = []
    for row, marks in enumerate(cells):
        starts_and_ends = np.flatnonzero(np.diff(marks, prepend=False, append=False)) - 0.5
        for left, right in starts_and_ends.reshape(-1, 2):
            top, bottom = row - 0.5, row + 0.5
            corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
            rectangles.append(Path(corners, closed=True))
    if rectangles:
        outline = Path.make_compound_path(*rectangles)
        patch = PathPatch(outline, facecolor="none", edgecolor=colour, linewidth=0, hatch=pattern, zorder=2)
        patch.set_hatch_linewidth(width)
        ax.add_patch(patch)


def _annotate(ax: Axes, image: AxesImage, values: np.ndarray, form: str) -> None:
    """Write the values into their cells, black or white by the luminance of the cell (Rec. 709 weights)."""
    colours = image.to_rgba(image.get_array())
    luminance = colours[..., :3] ** 2.2 @ (0.2126, 0.7152, 0.0722)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            look = {"color": "#000000" if luminance[row, column] > 0.18 else "#ffffff", "fontsize": 8, "zorder": 3}
            # A box in the cell's own colour keeps a hatch away from the digits.
            look["bbox"] = {"facecolor": colours[row, column], "edgecolor": "none", "pad": 1}
            ax.text(column, row, format(value, form), ha="center", va="center", **look)


def clustered_order(similarity: np.ndarray) -> np.ndarray:
    """Experts in the order of a hierarchical clustering (average linkage, optimal leaf order): (expert,) int32.

    similarity (expert, other), symmetric, at most 1; undefined pairs count as 0, the diagonal does not count.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # half a second, which most figures need not spend
    from scipy.spatial.distance import squareform

    distance = 1 - np.nan_to_num(similarity)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))
