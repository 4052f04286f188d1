"""The flow of occurrences through layers: which bar each is in, layer by layer, coloured by the class it belongs to."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import ArrayLike

from gatebook.figures.style import INK, MUTED, PALETTE, add_to_legend, house_style, inches, say_no_data
from gatebook.figures.told import Told

GAP, BAR = 0.012, 0.14
"""Between bars, as a share of the axes; width of a bar, as a share of the distance of two layers."""
LETTER = 0.13
"""Inches that a name needs."""
MOST_BARS = 12
"""Experts of a layer that have bars of their own in flows of many tokens; a picture of more cannot be read."""
OTHERS = -1
"""The bar of all other experts."""


@house_style
def flow(ax: Axes, layers: Sequence[int], choices: ArrayLike, classes: Sequence[int], names: Sequence[str]) -> None:
    """Bars of each layer from above, one for each expert that is chosen, joined by a ribbon for each occurrence.

    Parameters
    ----------
    ax
        Where they are drawn.
    layers
        Numbers of the layers (L,).
    choices
        The expert of each occurrence in each layer: (N, L) int. Bars are in the order of the mean place that their
        occurrences have in the layer before, those of the first layer in the order of their classes.
    classes
        The class of each occurrence, as a place in `names`: (N,).
    names
        Of the classes, at most as many as the palette has colours.
    """
    choices, classes = np.asarray(choices, int), np.asarray(classes, int)
    ax.set(xlim=(-0.5, len(layers) - 0.5), ylim=(1, -0.02))
    ax.set_xticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    if not len(choices):
        return say_no_data(ax)
    tops, height = places(choices, classes)
    for layer in range(len(layers) - 1):
        for occurrence in np.argsort(classes, kind="stable"):
            outline = _ribbon(layer, *tops[occurrence, layer : layer + 2], *height[layer : layer + 2])
            ax.add_patch(PathPatch(outline, facecolor=PALETTE[classes[occurrence]], alpha=0.45, linewidth=0))
    for layer in range(len(layers)):
        _bars(ax, layer, choices[:, layer], tops[:, layer], height[layer], classes, names)
    shown = [Patch(color=PALETTE[index], label=name) for index, name in enumerate(names)]
    add_to_legend(ax.figure, shown)
    return None


def places(choices: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper end of each occurrence in each layer, (N, L), and the height of one in each layer, (L,); see `flow`."""
    tops, heights, before = np.zeros(choices.shape), [], classes.astype(float)
    for layer, chosen in enumerate(choices.T):
        experts, bar = np.unique(chosen, return_inverse=True)
        middle = np.bincount(bar, before) / np.bincount(bar)
        rank = np.argsort(np.argsort(middle, kind="stable"))[bar]
        order = np.lexsort((before, classes, rank))
        heights.append((1 - GAP * (len(experts) - 1)) / len(chosen))
        tops[order, layer] = np.arange(len(chosen)) * heights[-1] + GAP * rank[order]
        before = tops[:, layer]
    return tops, np.array(heights)


def _bars(
    ax: Axes, layer: int, chosen: np.ndarray, top: np.ndarray, height: float, classes: np.ndarray, names: Sequence[str]
) -> None:
    """The bars of a layer, with the numbers of the experts that fit, each telling how many of each class it holds."""
    middles, told = [], []
    for expert in np.unique(chosen):
        mine = chosen == expert
        start, size = top[mine].min(), mine.sum() * height
        ax.add_patch(Rectangle((layer - BAR / 2, start), BAR, size, facecolor=MUTED, linewidth=0))
        if size * inches(ax)[1] > LETTER:
            ax.text(layer + BAR / 2 + 0.02, start + size / 2, f"e{expert}", va="center", color=INK, fontsize=8)
        held = np.bincount(classes[mine], minlength=len(names))
        told.append(
            f"{ax.get_xticklabels()[layer].get_text()}, expert {expert}: "
            + ", ".join(f"{number} {name}" for number, name in zip(held, names, strict=True) if number)
        )
        middles.append((layer, start + size / 2))
    Told(ax, *np.array(middles).T, told)


def _ribbon(layer: int, left: float, right: float, thick_left: float, thick_right: float) -> Path:
    """From a layer's bar to that of the next one, by the upper ends and the thickness at both."""
    start, end, middle = layer + BAR / 2, layer + 1 - BAR / 2, layer + 0.5
    points = [(start, left), (middle, left), (middle, right), (end, right), (end, right + thick_right)]
    points += [(middle, right + thick_right), (middle, left + thick_left), (start, left + thick_left), (start, left)]
    curve = [Path.CURVE4] * 3
    return Path(points, [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY])
