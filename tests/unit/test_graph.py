"""Graphs from left to right."""

import numpy as np
from matplotlib.patches import PathPatch

from gatebook.figures import graph, plotting
from gatebook.figures.graph import COLOURS, THICK, THIN, Edge, Node
from gatebook.figures.told import places

NODES = [Node("embedding", -2), Node("L0E3", 1, 0, 3), Node("L0E9", 1, 0, 9), Node("output", 4, 2)]
EDGES = [Edge(0, 1, 0.8, 0.7, 0.9), Edge(1, 3, -0.2, -0.3, -0.1), Edge(2, 3, 0.001, 0.0, 0.002)]


def test_columns_stand_from_left_to_right_and_share_their_height():
    at = graph.positions(NODES)
    assert at[:, 0].tolist() == [0, 0.5, 0.5, 1]
    assert at[1:3, 1].tolist() == [0.25, 0.75]


def test_edges_are_as_thick_as_their_size_and_have_the_colour_of_their_sign():
    drawing, (ax,) = plotting.canvas(3)
    graph.graph(ax, NODES, EDGES, "of the gap")
    lines = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    assert [line.get_linewidth() for line in lines] == [THIN, THICK / 4, THICK]  # the strongest above
    red, green, blue, _ = lines[1].get_edgecolor()
    assert "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue)) == COLOURS[False]
    assert {text.get_text() for text in ax.texts} == {node.name for node in NODES}
    drawing.draw_without_rendering()
    assert places(drawing)[0][2] == "embedding → L0E3: 0.80 [0.70, 0.90] of the gap"


def test_a_page_gets_positions_in_thousandths_and_numbers_with_three_digits():
    made = graph.described(NODES, [Edge(0, 1, 0.81234, 0.7, 0.9)])
    assert made["edges"] == [[0, 1, 0.812, 0.7, 0.9]]
    assert made["nodes"][1] == {"name": "L0E3", "layer": 0, "expert": 3, "at": [500, 250]}
    assert np.array([node["at"] for node in made["nodes"]]).max() <= 1000


def test_nothing_to_draw_is_said():
    _, (ax,) = plotting.canvas(3)
    graph.graph(ax, [], [], "")
    assert ax.texts and not ax.patches
