"""Numbers against others: points, the line of equality, and what readers are told."""

import numpy as np

from gatebook.figures import plotting, told
from gatebook.figures.scatter import against


def test_points_lie_where_they_should_and_say_what_they_are():
    drawing, (ax,) = plotting.canvas(3)
    y = np.array([0.5, 0.0])
    x = {"gradient": np.array([0.25, -0.125]), "integrated": y}
    against(ax, x, y, ["one", "two"], x_label="attributed", y_label="true", experts=[(0, 3), (1, 4)])
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines["equal"] == [[-0.125, -0.125], [0.5, 0.5]]
    assert lines["gradient"] == [[0.25, 0.5], [-0.125, 0.0]] and lines["integrated"] == [[0.5, 0.5], [0, 0]]
    drawing.canvas.draw()
    found = [each[2:] for each in told.places(drawing)]
    assert found[:2] == [["one, gradient: 0.25, true 0.5", 0, 3], ["two, gradient: \u22120.125, true 0", 1, 4]]
    legend = {text.get_text() for text in drawing.legends[0].get_texts()}
    assert legend == {"gradient", "integrated", "equal"}
