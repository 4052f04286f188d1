"""What a figure tells at its places: a sentence for each estimate that is drawn, for readers who point at it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Transform
from numpy.typing import ArrayLike

MOST = 2000
"""Places of a figure: one with more of them tells nothing, which its data in CSV do."""


class Told(Artist):
    """Sentences at places of axes, which nothing is drawn of."""

    def __init__(
        self,
        ax: Axes,
        x: ArrayLike,
        y: ArrayLike,
        sentences: Sequence[str],
        *,
        experts: Sequence[tuple[int, int]] = (),
        transform: Transform | None = None,
    ) -> None:
        """Add the `sentences` (place,) to `ax` at x and y (place,), in data units or those of `transform`.

        `experts` are the layer and the number of the expert that each of them is about.
        """
        super().__init__()
        self.at, self.sentences, self.experts = np.array([x, y], float).T, sentences, experts
        self.set_visible(False)
        ax.add_artist(self)
        self.set_transform(transform or ax.transData)


def places(figure: Figure) -> list[list]:
    """The places of a figure whose layout is done, in the order in which they were drawn.

    Each is [x, y, sentence], or [x, y, sentence, layer, expert]: whole thousandths of width and height from the left
    and from the top, and the title of the axes before the sentence, if they have one. Places outside the figure, or
    that are not finite, are left out, and all of a figure with more than `MOST`.
    """
    found = []
    for told in figure.findobj(Told):
        title = " ".join(told.axes.get_title(loc="left").split())
        at = told.get_transform().transform(told.at) / (figure.bbox.width, figure.bbox.height)
        for index, (x, y) in enumerate(at):
            if 0 <= x <= 1 and 0 <= y <= 1:
                sentence = f"{title}: {told.sentences[index]}" if title else told.sentences[index]
                about = told.experts[index] if len(told.experts) else ()
                found.append([round(1000 * x), round(1000 * (1 - y)), sentence, *map(int, about)])
    return found if len(found) <= MOST else []
