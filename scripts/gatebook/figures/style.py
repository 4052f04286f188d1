"""House style of the figures: colours, sizes, layout, labels at line ends and the legend.

The style lives in STYLE and is active only inside functions decorated with `house_style`, so matplotlib's global
settings stay as they are. pyplot is never used, so no figure stays registered. Fonts are those that matplotlib
brings: a system's own of the same name may be of another version, and figures of other bytes.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import offset_copy
from numpy.typing import ArrayLike

WIDTH = 6.8  # inches: the text width of an A4 page; 653 px in a browser, which scales it to the page
PALETTE = ("#2741e1", "#d18400", "#00a973", "#9c78b9", "#9d2001", "#441f68")
INK, MUTED, GRID = "#1f2328", "#57606a", "#dfe3e8"  # text; axes and references; grid
# Every adaptable colour and its counterpart on a dark page.
DARK = {
    **dict(zip(PALETTE, ("#53c7ff", "#ffb70f", "#39905c", "#a281a0", "#d16000", "#ffe4f3"), strict=True)),
    INK: "#e6edf3",
    MUTED: "#a5afba",
    GRID: "#323941",
}
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (2.5, 1.2)), (0, (8, 1.5, 2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
REFERENCE_DASHES = ((0, (4, 2.5)), (0, (1, 2)), (0, (8, 3)), (0, (4, 2, 1, 2)))
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in the name of a data set is a dollar sign
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "gatebook",
    "pdf.fonttype": 42,
}


def _prefer_own_fonts() -> None:
    """Of fonts that fit equally, matplotlib takes the first in its list: its own come first from now on."""
    own, fonts = Path(mpl.get_data_path(), "fonts/ttf"), font_manager.fontManager
    for path in sorted(own.glob("DejaVuSans*.ttf")):
        fonts.addfont(path)
    fonts.ttflist.sort(key=lambda font: not Path(font.fname).is_relative_to(own))


_prefer_own_fonts()
# A decorator: the house style is current for the duration of a call.
house_style = mpl.rc_context(STYLE)


@house_style
def canvas(
    height: float = 3.2, *, rows: int = 1, columns: int = 1, titles: Sequence[str] = (), share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the house style, WIDTH inches wide, and its axes in reading order.

    Parameters
    ----------
    height
        In inches (`height_for` proposes one for figures with a row for each data set or layer).
    rows, columns
        Of the grid of axes.
    titles
        One for each axes, or none at all.
    share_y
        One y scale for all axes.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : list of matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there are titles, but not one for each axes.
    """
    figure = Figure(figsize=(WIDTH, height), layout=SpreadingLayout(w_pad=0.06, h_pad=0.06), facecolor="none")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)
    for ax, title in zip(axes, titles or [""] * len(axes), strict=True):
        ax.set_title(textwrap.fill(title, 72 // columns))
    return figure, axes


def height_for(rows: int) -> float:
    """Height in inches of a figure that shows `rows` labelled rows (data sets, layers) in one axes."""
    return min(max(2.6, 1.5 + 0.22 * rows), 9.5)


def series_styles(labels: Sequence[str]) -> dict[str, dict]:
    """Colour, dash and marker of each label, by its position. ValueError above six: no palette keeps more apart."""
    if len(labels) > len(PALETTE):
        raise ValueError(f"{len(labels)} series in one figure; at most {len(PALETTE)} can be told apart.")
    looks = zip(PALETTE, DASHES, MARKERS, strict=True)
    return {
        label: {"color": colour, "linestyle": dash, "marker": marker}
        for label, (colour, dash, marker) in zip(labels, looks, strict=False)
    }


class SpreadingLayout(ConstrainedLayoutEngine):
    """Constrained layout that then spreads the end labels of each axes so that no two overlap."""

    def execute(self, fig: Figure) -> None:
        super().execute(fig)
        for ax in fig.axes:
            labels = [text for text in ax.texts if isinstance(text, EndLabel)]
            if not labels:
                continue
            # Text's own box, because that of an annotation includes its leader.
            heights = [Text.get_window_extent(label).height + 2 for label in labels]
            ends = [ax.transData.transform((1, label.xy[1]))[1] for label in labels]
            centres = spread_labels(ends, heights, ax.bbox.y0, ax.bbox.y1)
            for label, centre in zip(labels, centres, strict=True):
                label.set_position((1, (centre - ax.bbox.y0) / ax.bbox.height))


class EndLabel(Annotation):
    """The name of a line at the right edge of its axes, with a leader to the line's end; the layout sets its height."""

    def __init__(self, ax: Axes, line: Line2D, end_x: float | None, end_y: float) -> None:
        """end_x, end_y: where `line` ends, in data units; None for a line that ends at the edge of the axes."""
        super().__init__(
            textwrap.fill(line.get_label(), 26),
            (1 if end_x is None else end_x, end_y),
            xycoords=ax.get_yaxis_transform() if end_x is None else "data",
            xytext=(1, 0.5),
            textcoords=offset_copy(ax.transAxes, fig=ax.figure, x=12, units="points"),
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "linewidth": 0.9,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )
        ax.add_artist(self)
        self.set_clip_on(False)


def spread_labels(wanted: ArrayLike, heights: ArrayLike, low: float, high: float) -> np.ndarray:
    """Centres of labels that do not overlap and are as near to the wanted centres as possible (least squares).

    wanted, heights: (n,) in one unit. The order is kept (equal positions: order of the arguments). All labels lie in
    [low, high] when they fit there; otherwise the stack is centred on that range. Returns (n,) float64.
    """
    from scipy.optimize import isotonic_regression  # half a second, which most figures need not spend

    wanted, heights = np.asarray(wanted, float), np.asarray(heights, float)
    order = np.argsort(wanted, kind="stable")
    stacked = np.cumsum(heights[order]) - heights[order] / 2
    shift = isotonic_regression(wanted[order] - stacked).x
    lowest, highest = low, high - heights.sum()
    if highest < lowest:
        lowest = highest = (lowest + highest) / 2
    centres = np.empty(len(wanted))
    centres[order] = np.clip(shift, lowest, highest) + stacked
    return centres


def add_to_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Add labelled artists to the one legend above all axes; a label that is already there is not repeated."""
    entries = {
        text.get_text(): handle
        for legend in figure.legends
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    for handle in handles:
        entries.setdefault(handle.get_label(), handle)
    for columns in range(len(entries), 0, -1):
        for legend in list(figure.legends):
            legend.remove()
        legend = figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside upper left",
            ncols=columns,
            handlelength=3,
            borderpad=0.1,
        )
        if legend.get_window_extent().width <= figure.bbox.width:
            return


def say_no_data(ax: Axes) -> None:
    """Mark axes that have nothing to show."""
    ax.text(0.5, 0.5, "no data", transform=ax.transAxes, ha="center", va="center", color=MUTED)
    ax.grid(False)
    ax.tick_params(left=False, labelleft=False)


def number(value: float, _position: int | None = None) -> str:
    """A tick label: 0.05, 12, 2.5k, 1.5M."""
    text = EngFormatter(sep="")(value) if abs(value) >= 1000 else f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of axes before the layout, which decide how many tick labels fit."""
    box, (width, height) = ax.get_position(), ax.figure.get_size_inches()
    return box.width * width, box.height * height


def thinned(names: Sequence[str | int], most: float) -> np.ndarray:
    """Positions of the names to show: all text, or at most `most` integers at steps of a power of two.

    Of increasing integers multiples of the step are preferred (4, 8, 12 ...), so that ticks read well when the first
    layer is not 0.
    """
    positions = np.arange(len(names))
    if len(names) <= most or isinstance(names[0], str):
        return positions
    step = 2 ** math.ceil(math.log2(len(names) / most))
    multiples = positions[np.asarray(names) % step == 0]
    is_even = len(multiples) > 1 and (np.diff(names) > 0).all()
    return multiples if is_even else positions[::step]
