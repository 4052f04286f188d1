"""A graph from left to right: named nodes in columns, joined by curves as thick as what goes along them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from gatebook.figures.style import GRID, INK, MUTED, PALETTE, house_style, say_no_data
from gatebook.figures.told import Told
from gatebook.figures.words import format_estimate

COLOURS = {True: PALETTE[1], False: PALETTE[0]}
"""Of edges above 0 and below it."""
THICK, THIN = 7.0, 0.4
"""Points, of the strongest edge and of the weakest."""
MARGIN = 0.08


@dataclass(frozen=True)
class Node:
    """A node: its name, the column in which it stands, and its layer and number if it is an expert, -1 if not."""

    name: str
    column: int
    layer: int = -1
    expert: int = -1


@dataclass(frozen=True)
class Edge:
    """An edge between two nodes, by their places in a list: its value, signed, and the ends of its interval."""

    sender: int
    receiver: int
    value: float
    low: float
    high: float


def positions(nodes: Sequence[Node]) -> np.ndarray:
    """Where nodes stand, (node, 2) from 0 to 1: columns from left to right, those of one column from above."""
    columns = {column: place for place, column in enumerate(sorted({node.column for node in nodes}))}
    found = np.empty((len(nodes), 2))
    for column, place in columns.items():
        mine = [number for number, node in enumerate(nodes) if node.column == column]
        found[mine, 0] = place / max(len(columns) - 1, 1)
        shift = 0.12 * (-1) ** place if len(mine) == 1 and 0 < place < len(columns) - 1 else 0  # lines pass beside it
        found[mine, 1] = (np.arange(len(mine)) + 0.5) / len(mine) + shift
    return found


@house_style
def graph(ax: Axes, nodes: Sequence[Node], edges: Sequence[Edge], unit: str) -> None:
    """Draw a graph.

    Parameters
    ----------
    ax
        Where it is drawn.
    nodes, edges
        The strongest edges are the thickest; their colour is that of their sign.
    unit
        What values are, as the end of a sentence about an edge.
    """
    ax.set(xlim=(-MARGIN, 1 + MARGIN), ylim=(1, 0))
    ax.grid(False)
    ax.set_axis_off()
    if not nodes:
        return say_no_data(ax)
    at, most = positions(nodes), max((abs(edge.value) for edge in edges), default=1)
    for edge in sorted(edges, key=lambda each: abs(each.value)):
        (x, y), (to_x, to_y) = at[edge.sender], at[edge.receiver]
        middle = (x + to_x) / 2
        line = Path([(x, y), (middle, y), (middle, to_y), (to_x, to_y)], [Path.MOVETO, *[Path.CURVE4] * 3])
        look = {"edgecolor": COLOURS[edge.value > 0], "facecolor": "none", "alpha": 0.75, "capstyle": "butt"}
        ax.add_patch(PathPatch(line, linewidth=max(THICK * abs(edge.value) / most, THIN), **look))
    for node, (x, y) in zip(nodes, at, strict=True):
        box = {"boxstyle": "round,pad=0.3", "facecolor": GRID, "edgecolor": INK if node.expert >= 0 else MUTED}
        ax.text(x, y, node.name.replace(" ", "\n"), ha="center", va="center", fontsize=8, color=INK, bbox=box, zorder=3)
    middles = [(at[edge.sender] + at[edge.receiver]) / 2 for edge in edges]
    if edges:
        Told(ax, *np.array(middles).T, [f"{sentence(nodes, edge)} {unit}" for edge in edges])
    return None


def sentence(nodes: Sequence[Node], edge: Edge) -> str:
    """An edge in words, with its value and interval."""
    value, bounds = format_estimate(edge.value, edge.low, edge.high)
    return f"{nodes[edge.sender].name} → {nodes[edge.receiver].name}: {value} {bounds}"


def described(nodes: Sequence[Node], edges: Sequence[Edge]) -> Mapping:
    """The same for a page that shows it: nodes and edges with their numbers, positions in thousandths."""
    at = np.rint(1000 * positions(nodes)).astype(int).tolist()
    return {
        "nodes": [
            {"name": node.name, "layer": node.layer, "expert": node.expert, "at": place}
            for node, place in zip(nodes, at, strict=True)
        ],
        "edges": [
            [edge.sender, edge.receiver, *(float(f"{part:.3g}") for part in (edge.value, edge.low, edge.high))]
            for edge in edges
        ],
    }
