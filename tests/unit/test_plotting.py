"""What the figure primitives draw: read back from the artists, in data units."""

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib.collections import LineCollection
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.text import Text

from gatebook.figures import matrix, plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.style import MUTED, PALETTE, EndLabel, number, series_styles, spread_labels, thinned

LAYERS = np.arange(16)


def rising(label: str, start: float = 1.0, layers: np.ndarray = LAYERS) -> Series:
    estimate = start + 0.01 * layers
    return Series(label, estimate, estimate - 0.1, estimate + 0.1)


def drawn_texts(figure) -> list[Text]:
    """All texts that a reader sees, after the layout."""
    figure.draw_without_rendering()
    found = [text for legend in figure.legends for text in legend.get_texts()]
    for ax in figure.axes:
        if not ax.axison:
            continue
        found += [ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        for axis, coordinate in ((ax.xaxis, 0), (ax.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            found += [t for t in axis.get_majorticklabels() if low <= t.get_position()[coordinate] <= high]
    return [text for text in found if text.get_visible() and text.get_text()]


def single(draw, height: float = 3.2, **options):
    """A figure of one axes that `draw` has filled."""
    figure, (ax,) = plotting.canvas(height, **options)
    draw(ax)
    return figure


# ---------------------------------------------------------------- layout and style


@given(
    st.lists(st.tuples(st.floats(-50, 150), st.floats(5, 20)), min_size=1, max_size=8),
    st.floats(-20, 20),
    st.floats(0, 200),
)
def test_spread_labels_never_overlap_keep_their_order_and_stay_inside(labels, low, room):
    wanted, heights = np.array(labels).T
    high = low + room
    centres = spread_labels(wanted, heights, low, high)
    order = np.argsort(wanted, kind="stable")
    gaps = np.diff(centres[order]) - (heights[order][1:] + heights[order][:-1]) / 2
    assert (gaps >= -1e-9).all()
    if heights.sum() <= room:
        assert (centres - heights / 2 >= low - 1e-9).all()
        assert (centres + heights / 2 <= high + 1e-9).all()
    else:
        stack = (centres - heights / 2).min() + (centres + heights / 2).max()
        assert stack == pytest.approx(low + high, abs=1e-6)


def test_labels_with_room_stay_where_they_are_wanted():
    assert spread_labels([50, 10, 30], [10, 10, 10], 0, 100) == pytest.approx([50, 10, 30])


def test_colliding_labels_share_the_displacement():
    assert spread_labels([50, 50], [10, 10], 0, 100) == pytest.approx([45, 55])
    assert spread_labels([99, 99], [10, 10], 0, 100) == pytest.approx([85, 95])


SETS = ["Wikipedia", "GitHub", "arXiv", "StackExchange", "C4", "Multilingual C4", "PubMed abstracts", "Law"]
CROWDED = [rising(f"a rather long name of series {i}", 1 + 0.001 * i) for i in range(5)]
UNIFORM = [Reference("uniform", 1)]
PANELS = [Panel(name, LAYERS, [rising("top-1"), rising("top-8", 2)], UNIFORM, "Share") for name in SETS]
ROWS = [rising(name, layers=np.arange(8)) for name in ("trained", "untrained", "unigram")]


def ratios(layers: int, experts: int, **options):
    """A layer x expert matrix of ratios, alone or on each of the axes of a figure with several."""
    values = np.exp(np.random.default_rng(0).normal(0, 1, (layers, experts)))
    figure, axes = plotting.canvas(plotting.height_for(layers), **options)
    for ax in axes:
        plotting.layer_expert_matrix(
            ax, values, range(layers), range(experts), kind="ratio", label="Share / uniform share"
        )
    return figure


def named_matrix():
    look = {"kind": "magnitude", "label": "Bits", "annotate": ".2f", "x_label": "Data set"}
    values = np.arange(64).reshape(8, 8) / 64
    return single(lambda ax: plotting.matrix(ax, values, SETS, SETS, **look), plotting.height_for(8))


def log_curves():
    look = {"x_label": "Step", "y_label": "Loss", "x_scale": "log", "y_scale": "log"}
    series = [Series("training", np.linspace(9, 2, 50)), Series("validation", np.linspace(9, 2.1, 50))]
    return single(lambda ax: plotting.curves(ax, np.arange(1, 51) * 1000, series, **look))


EXPERT_QUANTILES = np.geomspace(1e-4, 0.2, 3 * 64).reshape(3, 64).T

# Typical and demanding sizes of each kind of figure.
FIGURES = {
    "lines": lambda: single(lambda ax: plotting.layer_lines(ax, LAYERS, CROWDED, UNIFORM, y_label="nats")),
    "low lines": lambda: single(lambda ax: plotting.layer_lines(ax, LAYERS, CROWDED[:3], y_label="nats"), 2.2),
    "61 layers": lambda: single(lambda ax: plotting.layer_lines(ax, range(61), [rising("H", layers=np.arange(61))])),
    "multiples": lambda: plotting.small_multiples(PANELS),
    "free multiples": lambda: plotting.small_multiples([*PANELS[:3], None, *PANELS[3:]], share_y=False),
    "1 x 8": lambda: ratios(1, 8),
    "4 x 8": lambda: ratios(4, 8),
    "16 x 64": lambda: ratios(16, 64),
    "61 x 256": lambda: ratios(61, 256),
    "two matrices": lambda: ratios(
        16, 64, columns=2, titles=["Trained", "A title too long for half the width of a page"]
    ),
    "named rows and columns": named_matrix,
    "dots": lambda: single(lambda ax: plotting.dot_whiskers(ax, SETS, ROWS, UNIFORM, x_label="Share")),
    "crosses": lambda: single(
        lambda ax: plotting.crosses(ax, SETS[:3], Series("x", [1, 2, 3]), Series("y", [3, 1, 2]))
    ),
    "bars": lambda: single(
        lambda ax: plotting.stacked_bars(ax, SETS, {name: np.ones(8) for name in "abc"}, x_label="n")
    ),
    "ridges": lambda: single(lambda ax: plotting.histograms(ax, range(9), np.ones((61, 8)), range(61), label="a"), 9),
    "log curves": log_curves,
    "ranges": lambda: single(
        lambda ax: plotting.ranges(ax, range(64), EXPERT_QUANTILES, UNIFORM[0], x_label="expert", y_scale="log")
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_clipped_or_overlaps_or_is_below_8_points(name):
    figure = FIGURES[name]()
    texts = drawn_texts(figure)
    # Text's own box: the one of an end label would include its leader. Slanted labels have boxes larger than their ink.
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts if text.get_rotation() in (0, 90)]
    for label, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1, label
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, label
    for (first, one), (second, other) in itertools.combinations(boxes, 2):
        assert not one.padded(-0.5).overlaps(other.padded(-0.5)), f"{first!r} overlaps {second!r}"
    assert min(text.get_fontsize() for text in texts) >= 8


def test_global_settings_stay_as_they_are():
    before = dict(mpl.rcParams)
    single(lambda ax: plotting.layer_lines(ax, LAYERS, [rising("a"), rising("b")])).draw_without_rendering()
    assert dict(mpl.rcParams) == before


def test_fonts_are_those_of_matplotlib_whatever_the_system_brings():
    found = [FontProperties(family="DejaVu Sans", weight=weight) for weight in ("normal", "bold")]
    assert [Path(font_manager.findfont(font)).parent for font in found] == [Path(mpl.get_data_path(), "fonts/ttf")] * 2


def test_dollar_signs_stay_text():
    figure = single(lambda ax: plotting.layer_lines(ax, LAYERS, [rising("$x$"), rising("$y^2$")]))
    assert all(not text.get_parse_math() for text in drawn_texts(figure) if "$" in text.get_text())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (0, "0"), (-1.5, "\N{MINUS SIGN}1.5"), (2500, "2.5k"), (1_500_000, "1.5M"), (0.1 + 0.2, "0.3")],
)
def test_tick_labels(value, text):
    assert number(value) == text


def test_thinned_ticks_are_real_layers_and_multiples_of_the_step():
    assert thinned(range(16), 16).tolist() == list(range(16))
    assert thinned(range(61), 10).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert (np.arange(3, 61)[thinned(np.arange(3, 61), 8)] == [8, 16, 24, 32, 40, 48, 56]).all()
    assert thinned([1, 3, 5, 7, 9, 11], 3).tolist() == [0, 2, 4]  # no even layer: every second one
    assert thinned([8, 3, 0, 4, 7, 16], 3).tolist() == [0, 2, 4]  # in another order: every second one, too
    assert thinned(["a", "b", "c"], 1).tolist() == [0, 1, 2]


# ---------------------------------------------------------------- lines


def test_a_line_and_its_band_have_the_values_given():
    _, (ax,) = plotting.canvas()
    one = rising("a")
    plotting.layer_lines(ax, LAYERS, [one])
    assert (ax.lines[0].get_xdata() == LAYERS).all()
    assert (ax.lines[0].get_ydata() == one.estimate).all()
    band = ax.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in band} >= set(zip(LAYERS, one.low)) | set(zip(LAYERS, one.high))  # noqa: B905


def test_non_finite_estimates_are_gaps_and_a_lone_point_keeps_its_interval():
    _, (ax,) = plotting.canvas()
    estimate = np.array([1, np.nan, 2, np.inf, 3, 4.0])
    plotting.layer_lines(ax, range(6), [Series("a", estimate, estimate - 1, estimate + 1)])
    line, alone = ax.lines[:2]
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False, True, False, False]
    assert alone.get_xdata().tolist() == [0, 2]
    bars = next(c for c in ax.collections if isinstance(c, LineCollection))
    assert [bar.tolist() for bar in bars.get_segments()] == [[[0, 0], [0, 2]], [[2, 1], [2, 3]]]
    band = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
    assert np.isfinite(band).all() and not ((band[:, 0] > 0.01) & (band[:, 0] < 1.99)).any()


def test_one_layer_shows_a_marked_point_with_its_interval_for_each_series():
    figure, (ax,) = plotting.canvas()
    plotting.layer_lines(
        ax, [0], [Series("a", [1], [0.5], [1.5]), Series("b", [1.1], [0.9], [1.3])], [Reference("null", [2])]
    )
    points = [line for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert [point.get_ydata().tolist() for point in points] == [[1], [1.1]]
    assert points[0].get_xdata()[0] < 0 < points[1].get_xdata()[0]  # side by side
    bars = [c.get_segments()[0][:, 1].tolist() for c in ax.collections if isinstance(c, LineCollection)]
    assert bars == [[0.5, 1.5], [0.9, 1.3]]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0"]
    assert {text.get_text() for text in drawn_texts(figure)} >= {"a", "b", "null"}


def test_series_differ_in_grey_too():
    _, (ax,) = plotting.canvas()
    plotting.layer_lines(ax, LAYERS, [rising(f"s{i}") for i in range(6)])
    lines = [line for line in ax.lines if line.get_label().startswith("s")]
    assert [line.get_color() for line in lines] == list(PALETTE)
    assert len({line.get_marker() for line in lines}) == 6
    styles = series_styles(["a", "b", "c", "d", "e", "f"]).values()
    assert len({style["linestyle"] for style in styles}) == 6


def test_more_series_than_colours_are_refused():
    _, (ax,) = plotting.canvas()
    with pytest.raises(ValueError, match="7 series"):
        plotting.layer_lines(ax, LAYERS, [rising(f"s{i}") for i in range(7)])


def test_order_fixes_the_colour_of_a_label():
    _, (ax,) = plotting.canvas()
    plotting.layer_lines(ax, LAYERS, [rising("untrained")], order=["trained", "untrained"])
    assert ax.lines[0].get_color() == PALETTE[1]


def test_an_interval_with_one_end_is_refused():
    with pytest.raises(ValueError, match="both ends"):
        Series("a", [1], low=[0])


def test_end_labels_only_where_there_is_something_to_tell_apart():
    for count, labels in ((1, 0), (2, 2)):
        _, (ax,) = plotting.canvas()
        plotting.layer_lines(ax, LAYERS, [rising(f"s{i}") for i in range(count)])
        assert sum(isinstance(text, EndLabel) for text in ax.texts) == labels


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plotting.layer_lines(ax, LAYERS, [Series("a", np.full(16, np.nan))], [Reference("null", 1)]),
        lambda ax: plotting.matrix(ax, np.full((2, 2), np.nan), ["a", "b"], ["c", "d"], kind="ratio", label="x"),
        lambda ax: plotting.dot_whiskers(ax, ["a"], [Series("s", [np.inf])]),
        lambda ax: plotting.histograms(ax, [0, 1, 2], np.zeros((3, 2)), range(3)),
        lambda ax: plotting.stacked_bars(ax, ["a"], {"s": [np.nan], "t": [1]}),
        lambda ax: plotting.crosses(ax, ["a", "b"], Series("x", [np.nan, 1]), Series("y", [1, np.nan])),
    ],
)
def test_axes_without_a_finite_value_say_so(draw):
    assert "no data" in [text.get_text() for text in drawn_texts(single(draw))]


def test_symmetric_log_curves_begin_at_zero_and_name_values_of_x_that_have_room():
    _, (ax,) = plotting.canvas(3)
    steps = [0, 10, 25, 50, 100, 200, 300, 310, 400]
    plotting.curves(ax, steps, [Series("a", np.arange(9))], x_scale="symlog")
    assert ax.get_xscale() == "symlog"
    ticks = ax.get_xticks().tolist()
    assert ticks[0] == 0 and ticks[-1] == 400 and set(ticks) < set(steps) and 310 not in ticks
    place = ax.xaxis.get_transform().transform(np.array([0, 10, 100.0]))
    assert place[1] - place[0] == pytest.approx(place[2] - place[1], rel=0.2)
    plotting.curves(plotting.canvas(3)[1][0], [0], [Series("a", [1])], x_scale="symlog")


def test_log_curves_leave_gaps_where_a_value_is_not_positive():
    _, (ax,) = plotting.canvas()
    plotting.curves(ax, [1, 2, 3], [Series("a", [1, 0, 2])], y_scale="log")
    assert np.isnan(ax.lines[0].get_ydata()).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="positive x"):
        plotting.curves(ax, [0, 1, 2], [Series("a", [1, 1, 2])], x_scale="log")


def test_small_multiples_share_scale_legend_and_colours():
    first = Panel("A", LAYERS, [rising("x"), rising("y", 5)], [Reference("null", 0)], "Share")
    second = Panel("B", LAYERS, [rising("y", 9)], (), "Share")
    figure = plotting.small_multiples([first, None, second, first], columns=3, y_limits=(0, None))
    axes = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y", "null"]
    assert len({ax.get_ylim() for ax in axes}) == 1
    assert axes[0].get_ylim()[0] == 0 and axes[0].get_ylim()[1] > 9.25  # the highest interval of any panel
    assert axes[2].lines[0].get_color() == PALETTE[1]
    assert [ax.axison for ax in axes] == [True, False, True, True, False, False]
    assert [ax.get_xlabel() for ax in axes if ax.axison] == ["", "Layer", "Layer"]


# ---------------------------------------------------------------- matrices


def drawn_matrix(values, **options):
    figure, (ax,) = plotting.canvas()
    rows, columns = np.shape(values)
    plotting.matrix(ax, values, range(rows), range(columns), **({"label": "x"} | options))
    return figure, ax, ax.images[0]


def test_ratios_are_log2_with_symmetric_limits_that_the_label_states():
    figure, _, image = drawn_matrix([[1, 2, 0.25], [1, 1, 1]], kind="ratio")
    assert image.get_array().tolist() == [[0, 1, -2], [0, 0, 0]]
    assert image.get_clim() == (-2, 2)
    assert image.get_cmap().name == "PuOr_r"
    assert figure.axes[1].get_xlabel() == "x (log scale, clipped at 1/4 and 4)"
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["1/4", "1/2", "1", "2", "4"]


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1e6), min_size=4, max_size=4))
def test_ratio_limits_are_symmetric_for_any_values(values):
    _, _, image = drawn_matrix(np.reshape(values, (2, 2)), kind="ratio")
    low, high = image.get_clim()
    assert low == -high < 0


def test_a_ratio_of_zero_is_a_value_and_nan_is_a_gap():
    _, ax, image = drawn_matrix([[0, np.nan, np.inf], [1, 2, 4]], kind="ratio")
    assert image.get_array().mask.tolist() == [[False, True, True], [False, False, False]]
    assert image.get_array()[0, 0] < image.get_clim()[0]
    assert image.to_rgba(image.get_array())[0, 1, 3] == 0  # transparent
    (gaps,) = (patch for patch in ax.patches if isinstance(patch, PathPatch))
    assert gaps.get_path().get_extents().extents.tolist() == [0.5, -0.5, 2.5, 0.5]


def test_magnitudes_start_at_zero_and_state_a_clip():
    figure, _, image = drawn_matrix([[0.2, 0.5]], kind="magnitude")
    assert image.get_clim() == (0, 0.5)
    assert image.get_cmap().name == "cividis"
    assert figure.axes[1].get_xlabel() == "x"
    figure, _, _ = drawn_matrix([[0.2, 0.5]], kind="magnitude", limits=(0, 0.4))
    assert figure.axes[1].get_xlabel() == "x (clipped at 0 and 0.4)"


def test_layer_0_is_on_top_and_uncertain_cells_are_hatched():
    _, (ax,) = plotting.canvas()
    uncertain = np.zeros((4, 8), bool)
    uncertain[1, 2:4] = uncertain[3, 7] = True
    look = {"kind": "magnitude", "label": "x", "uncertain": uncertain}
    plotting.layer_expert_matrix(ax, np.ones((4, 8)), range(4), range(8), **look)
    bottom, top = ax.get_ylim()
    assert top < 0 < bottom
    casing, hatch = ax.patches
    assert casing.get_hatch() == hatch.get_hatch() == "///"
    corners = hatch.get_path().vertices.reshape(-1, 5, 2)
    assert corners.min(axis=1).tolist() == [[1.5, 0.5], [6.5, 2.5]]
    assert corners.max(axis=1).tolist() == [[3.5, 1.5], [7.5, 3.5]]


def test_cells_are_annotated_only_while_they_are_few():
    _, ax, _ = drawn_matrix([[0.123, np.nan]], kind="magnitude", annotate=".2f")
    assert [text.get_text() for text in ax.texts] == ["0.12"]
    _, ax, _ = drawn_matrix(np.ones((16, 64)), kind="magnitude", annotate=".2f")
    assert len(ax.texts) == 0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([[-1, 2]], {"kind": "ratio"}, "negative value -1"),
        ([[-1, 2]], {"kind": "magnitude"}, "negative value -1"),
        ([[1, 2]], {"kind": "ratio", "limits": (0.5, 4)}, "reciprocal"),
    ],
)
def test_values_that_a_matrix_cannot_show_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        drawn_matrix(values, **options)


def test_nulls_are_lines_across_the_colour_bar_and_those_beyond_it_are_told():
    nulls = {"chance": 0.25, "far": 3.0, "unknown": np.nan}
    figure, *_ = drawn_matrix([[0.1, 0.4]], kind="magnitude", limits=(0, 0.4), nulls=nulls)
    bar = figure.axes[1]
    assert [line.get_xdata() for line in bar.lines] == [[0.25, 0.25]] * 2
    assert bar.get_xlabel().replace("\n", " ") == "x; line: chance 0.25; beyond the scale: far 3"
    ratios, *_ = drawn_matrix([[0.5, 2]], kind="ratio")
    assert [line.get_xdata() for line in ratios.axes[1].lines] == [[0, 0]] * 2


def test_a_matrix_of_the_wrong_shape_is_refused():
    _, (ax,) = plotting.canvas()
    with pytest.raises(ValueError, match="2 rows and 3 columns"):
        plotting.matrix(ax, np.ones((3, 2)), range(2), range(3), kind="ratio", label="x")


# ---------------------------------------------------------------- rows and distributions


def test_dots_and_whiskers_stand_in_their_rows():
    figure, (ax,) = plotting.canvas()
    series = [Series("a", [1, 2], [0.5, np.nan], [1.5, 3]), Series("b", [3, np.nan])]
    plotting.dot_whiskers(ax, ["first", "second"], series, [Reference("null", 0)])
    assert ax.lines[0].get_xdata().tolist() == [1, 2]
    assert ax.lines[0].get_ydata() == pytest.approx([-0.12, 0.88])
    assert ax.lines[1].get_ydata() == pytest.approx([0.12, 1.12])
    assert np.isnan(ax.lines[1].get_xdata()[1])
    whiskers = [bar[:, 0].tolist() for bar in ax.collections[0].get_segments() if len(bar)]
    assert whiskers == [[0.5, 1.5]]  # half an interval is no interval
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "null"]


def test_ranges_stand_at_their_positions_with_gaps_where_nothing_is_known():
    figure, (ax,) = plotting.canvas()
    quantiles = [[1, 2, 3], [np.nan, np.nan, np.nan], [0, 4, 5]]
    plotting.ranges(ax, [0, 1, 2], quantiles, Reference("even", 2.5))
    dots, line = ax.get_lines()
    np.testing.assert_array_equal(dots.get_xydata(), [[0, 2], [1, np.nan], [2, 4]])
    (bars,) = (each for each in ax.collections if isinstance(each, LineCollection))
    ends = [path.vertices.tolist() for path in bars.get_paths()]
    assert ends[0] == [[0, 1], [0, 3]] and [[2, 0], [2, 5]] in ends
    assert line.get_ydata() == [2.5, 2.5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["median, 10 % to 90 %", "even"]
    figure, (ax,) = plotting.canvas()
    plotting.ranges(ax, [0], [[np.nan] * 3])
    assert "no data" in [text.get_text() for text in ax.texts]


def test_crosses_have_intervals_in_both_directions_and_chance_is_grey():
    figure, (ax,) = plotting.canvas()
    x, y = Series("x", [1, 2, 3], [0.5, np.nan, 3], [1.5, np.nan, 3]), Series("y", [4, 5, np.nan], [3, 4, 0], [5, 6, 1])
    plotting.crosses(ax, ["a", "by chance", "unknown"], x, y, chance="by chance")
    points = [line.get_xydata().tolist() for line in ax.get_lines()]
    assert points[:2] == [[[1, 4]], [[2, 5]]] and np.isnan(points[2][0][1])
    segments = [segment.tolist() for each in ax.collections for segment in each.get_segments() if len(segment)]
    bars = [segment for segment in segments if np.isfinite(segment).all()]
    assert bars[:3] == [[[0.5, 4], [1.5, 4]], [[1, 3], [1, 5]], [[2, 4], [2, 6]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "by chance"]
    assert ax.get_lines()[1].get_color() == MUTED and ax.get_lines()[0].get_color() == PALETTE[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")


def test_parts_of_bars_stand_side_by_side_up_to_the_first_that_is_not_known():
    figure, (ax,) = plotting.canvas()
    plotting.stacked_bars(ax, ["first", "second"], {"a": [1, 2], "b": [3, np.nan], "c": [0.5, 1]}, x_limits=(0, 5))
    found = [(patch.get_x(), patch.get_width(), patch.get_y() + patch.get_height() / 2) for patch in ax.patches]
    assert found == [(0, 1, 0), (0, 2, 1), (1, 3, 0), (4, 0.5, 0)]
    assert len({(patch.get_facecolor(), patch.get_hatch()) for patch in ax.patches}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_ridges_are_densities_scaled_to_their_own_maximum():
    _, (ax,) = plotting.canvas()
    # 4 per unit, then 2 per unit: the wide bin holds as many but is half as dense.
    plotting.histograms(
        ax, [0, 1, 3], [[4, 4], [0, 0]], [5, 6], label="trained", outline=("untrained", [[0, 1], [2, 1]])
    )
    ridges = [patch.get_data().values for patch in ax.patches]
    assert ridges[0] == pytest.approx([-0.85, -0.425])
    assert ridges[1] == pytest.approx([np.nan, -0.85], nan_ok=True)
    assert np.isnan(ridges[2]).all()
    assert ridges[3] == pytest.approx([1 - 0.85, 1 - 0.2125])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["5", "6"]


def test_clustering_puts_alike_experts_side_by_side():
    group = np.array([0, 1, 0, 2, 1, 2])
    order = matrix.clustered_order(np.where(group[:, None] == group, 0.9, 0.1))
    assert sorted(order) == list(range(6))
    assert all(group[order[place]] == group[order[place + 1]] for place in (0, 2, 4))


def test_a_reference_with_an_interval_has_a_band():
    lines = [rising("trained")]
    plain, banded = Reference("null", 1.0), Reference("null", 1.0, 0.9, 1.05)
    for reference, band in ((plain, False), (banded, True)):
        figure = single(lambda ax, given=reference: plotting.layer_lines(ax, LAYERS, lines, [given]))
        paths = [path for one in figure.axes[0].collections for path in one.get_paths()]
        ends = [(path.vertices[:, 1].min(), path.vertices[:, 1].max()) for path in paths if len(path.vertices)]
        assert ((0.9, 1.05) in ends) == band
    rows = single(lambda ax: plotting.dot_whiskers(ax, ["a", "b"], [Series("x", [1, 2])], [banded]))
    spans = [patch.get_extents().transformed(rows.axes[0].transData.inverted()) for patch in rows.axes[0].patches]
    assert [(span.x0, span.x1) for span in spans] == [pytest.approx((0.9, 1.05))]
