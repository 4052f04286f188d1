"""What figures tell where readers point at them."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Drawing

from gatebook.figures import export, plotting, told
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.told import Told

NAN = float("nan")


@pytest.fixture
def ax():
    """Axes that fill a figure without layout, 10 wide and 5 high in their own units."""
    return Drawing().add_axes((0, 0, 1, 1), xlim=(0, 10), ylim=(0, 5))


def sentences(drawing: Drawing) -> list[str]:
    return [sentence for one in drawing.findobj(Told) for sentence in one.sentences]


def test_places_are_thousandths_from_the_left_and_the_top(ax):
    Told(ax, [5, 0], [1, 5], ["a", "b"])
    Told(ax, [2.5], [2.5], ["c"], experts=[(3, 7)])
    assert told.places(ax.figure) == [[500, 800, "a"], [0, 0, "b"], [250, 500, "c", 3, 7]]


def test_a_title_comes_first_and_what_is_not_there_is_left_out(ax):
    ax.set_title("Two\nlines", loc="left")
    Told(ax, [1, NAN, 11, 1], [1, 1, 1, -1], ["a", "b", "c", "d"])
    assert told.places(ax.figure) == [[100, 800, "Two lines: a"]]


def test_a_figure_with_too_many_places_tells_nothing(ax):
    many = told.MOST + 1
    Told(ax, np.ones(many), np.ones(many), ["a"] * many)
    assert told.places(ax.figure) == []


def test_nothing_is_drawn_and_limits_stay(ax):
    ax.set(xlim=(0, 1), autoscale_on=True)
    Told(ax, [100], [100], ["a"])
    ax.autoscale_view()
    assert ax.get_xlim()[1] < 100


def test_lines_and_references_tell_estimates_with_their_intervals():
    drawing, (ax,) = plotting.canvas()
    series = [Series("trained", [0.5, NAN], [0.4, NAN], [0.6, NAN])]
    plotting.layer_lines(ax, [0, 3], series, [Reference("null", 0.25), Reference("band", [0.1, 0.2], 0, 1)])
    assert sentences(drawing) == [
        "Layer 0, trained: 0.50 [0.40, 0.60]",
        "Layer 3, trained: not available",
        "Layer 0, null: 0.25",
        "Layer 3, null: 0.25",
        "Layer 0, band: 0.10 [0.00, 1.00]",
        "Layer 3, band: 0.20 [0.00, 1.00]",
    ]
    assert len(told.places(drawing)) == 5


def test_every_panel_names_what_is_on_its_axis():
    panels = [Panel(name, [1, 2], [Series("a", [1, 2])]) for name in ("one", "two")]
    drawing = plotting.small_multiples(panels, columns=1)
    assert [place[2] for place in told.places(drawing)] == [
        f"{name}: Layer {layer}, a: {layer}" for name in ("one", "two") for layer in (1, 2)
    ]


def test_rows_bars_ranges_and_ridges():
    drawing, axes = plotting.canvas(rows=2, columns=2)
    plotting.dot_whiskers(axes[0], ["x"], [Series("a", [1.0], [0.9], [1.1])])
    plotting.stacked_bars(axes[1], ["x"], {"a": [0.5], "b": [0.25]})
    plotting.ranges(axes[2], [4], [[1, 2, 3]], x_label="Expert")
    plotting.histograms(axes[3], [0, 1, 2], [[0, 8]], [5])
    assert sentences(drawing) == [
        "x, a: 1.00 [0.90, 1.10]",
        "x, a: 0.5",
        "x, b: 0.25",
        "Expert 4: median 2, 10 % to 90 %: 1 to 3",
        "Layer 5: median 1.5, 10 % to 90 %: 1.1 to 1.9",
    ]
    assert [one.at.tolist() for one in drawing.findobj(Told)[1:3]] == [[[0.25, 0]], [[0.625, 0]]]


def test_cells_tell_their_values_and_lead_to_experts():
    drawing, axes = plotting.canvas(columns=2)
    plotting.layer_expert_matrix(axes[0], [[1, NAN]], [7], [0, 5], kind="ratio", label="r")
    plotting.matrix(axes[1], [[0.5]], ["python"], ["top-1"], kind="magnitude", label="r")
    drawing.draw_without_rendering()
    assert [place[2:] for place in told.places(drawing)] == [
        ["Layer 7, expert 0: 1", 7, 0],
        ["Layer 7, expert 5: not available", 7, 5],
        ["python, top-1: 0.5"],
    ]


def test_places_are_where_the_saved_picture_has_its_dots(tmp_path):
    drawing, (ax,) = plotting.canvas()
    plotting.curves(ax, [1, 10, 100], [Series("a", [3, 1, 2])], x_scale="log")
    places = export.save(drawing, tmp_path, "a", pd.DataFrame({"a": [1]}), title="a", description="a", source="a")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    marker = re.search(r'<path id="(\w+)"[^>]*style="stroke: #2741e1', svg)[1]
    dots = [(float(x), float(y)) for x, y in re.findall(rf'<use xlink:href="#{marker}" x="([\d.]+)" y="([\d.]+)"', svg)]
    found = [(1000 * x / width, 1000 * y / height) for x, y in dots]
    assert len(places) == 3
    np.testing.assert_allclose([place[:2] for place in places], found[:3], atol=0.6)
