"""What the written figure files contain."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from gatebook.figures import export, plotting
from gatebook.figures.style import DARK, GRID, INK, MUTED, PALETTE

SVG = "{http://www.w3.org/2000/svg}"
DATA = pd.DataFrame({"layer": [0, 1], "entropy": [1.23456789, np.nan], "set": ["=1+1", "GitHub"]})


def draw_and_save(directory):
    """A figure with most kinds of artists: lines, band, reference, labels, image, hatch, colour bar."""
    directory.mkdir()
    figure, (left, right) = plotting.canvas(columns=2, titles=["Lines -- <b>", "Matrix"])
    series = [
        plotting.Series(f"s{i}", np.arange(4) + i, np.arange(4) + i - 1, np.arange(4.0) + i + 1) for i in range(6)
    ]
    plotting.layer_lines(left, range(4), series, [plotting.Reference("null", 0)], y_label="nats")
    values = np.array([[1.0, 2.0], [np.nan, 0.5]])
    plotting.matrix(
        right, values, ["a", "b"], ["c", "d"], kind="ratio", label="x", uncertain=values > 1, annotate=".1f"
    )
    texts = {"title": "Entropy & co", "description": "Falls from 3 to <2 nats.", "source": "rule entropy, commit abc"}
    export.save(figure, directory, "entropy", DATA, **texts)
    assert not figure.axes
    return directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return draw_and_save(tmp_path_factory.mktemp("figures") / "first")


@pytest.fixture(scope="module")
def svg(saved):
    return (saved / "entropy.svg").read_text(encoding="utf-8")


def test_two_saves_write_the_same_bytes(saved, tmp_path):
    again = draw_and_save(tmp_path / "second")
    names = sorted(path.name for path in saved.iterdir())
    assert names == ["entropy.csv", "entropy.pdf", "entropy.svg"]
    for name in names:
        assert (saved / name).read_bytes() == (again / name).read_bytes(), name


def test_svg_is_accessible_and_names_its_source(svg):
    root = ET.fromstring(svg)
    assert root.find(f"{SVG}title").text == "Entropy & co"
    assert root.find(f"{SVG}desc").text == "Falls from 3 to <2 nats."
    assert root.get("role") == "img"
    assert {element.get("id") for element in root[:2]} == set(root.get("aria-labelledby").split())
    assert "rule entropy, commit abc" in ET.tostring(root.find(f"{SVG}metadata"), encoding="unicode")


def test_files_contain_no_date(saved, svg):
    assert "<dc:date" not in svg
    assert not re.search(r"\b20\d\d-\d\d", svg)
    assert b"CreationDate" not in (saved / "entropy.pdf").read_bytes()


def test_every_colour_of_the_style_in_use_has_its_dark_rule(svg):
    style = ET.fromstring(svg).find(f"{SVG}style").text
    body = svg.replace(style, "")
    used = {(kind, light) for light in DARK for kind in ("fill", "stroke") if f"{kind}: {light}" in body}
    assert {light for _, light in used} == {*PALETTE, INK, MUTED, GRID}
    assert style.startswith("@media (prefers-color-scheme: dark){")
    for kind, light in used:
        assert f'[style*="{kind}: {light}"]{{{kind}:{DARK[light]}!important}}' in style


def test_no_text_is_left_black_on_a_dark_page(svg):
    root = ET.fromstring(svg)
    labels = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("text_")]
    glyphs = [group for label in labels for group in label.iter(f"{SVG}g") if group.find(f".//{SVG}use") is not None]
    plain = [group for group in glyphs if group.get("id") is None and "fill" not in group.get("style", "")]
    assert len(labels) > 10
    # Only the 1.0 in its pale cell: numbers in cells are black or white by the colour of the cell, not of the page.
    assert len(plain) == 1


def test_svg_has_no_outside_reference_and_a_transparent_page(svg):
    root = ET.fromstring(svg)
    targets = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert targets and all(target.startswith(("#", "data:")) for target in targets)
    assert "<!" not in svg
    page = root.find(f".//{SVG}g[@id='patch_1']")
    assert page is None or "fill: none" in page[0].get("style")


def test_coordinates_are_rounded(svg):
    for element in ET.fromstring(svg).iter():
        assert not re.search(r"\.\d{3}", element.get("d", ""))
    assert export.round_numbers("M 1.23456 -0.001 L 10 2.5e1 z") == "M1.23 0L10 2.5e1z"


def test_csv_equals_the_data_to_six_digits(saved):
    text = (saved / "entropy.csv").read_bytes().decode("utf-8")
    assert text == "layer,entropy,set\n0,1.23457,'=1+1\n1,,GitHub\n"


def test_csv_reads_back_to_six_digits():
    values = np.random.default_rng(0).lognormal(0, 9, 500) * np.where(np.arange(500) % 2, 1, -1)
    back = pd.read_csv(io.StringIO(export.csv_text(pd.DataFrame({"x": values}))))
    assert back["x"].to_numpy() == pytest.approx(values, rel=5e-6)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formulas_in_text_are_quoted_and_numbers_are_not(start):
    table = pd.DataFrame(
        {f"{start}head": [f"{start}1"], "n": [-1], "x": [-0.5], "mixed": pd.Series([-2.5], dtype=object)}
    )
    back = pd.read_csv(io.StringIO(export.csv_text(table)), dtype=str, lineterminator="\n")
    assert back.columns[0] == f"'{start}head"
    assert back.iloc[0].tolist() == [f"'{start}1", "-1", "-0.5", "-2.5"]
