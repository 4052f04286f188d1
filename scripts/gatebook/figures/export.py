"""Write a figure as SVG for the page, PDF for papers and CSV with the data behind it, byte-identical between runs."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
from fontTools import subset
from matplotlib.figure import Figure

from gatebook.figures import told
from gatebook.figures.style import DARK, house_style
from gatebook.files.tables import csv_text

SVG = "http://www.w3.org/2000/svg"
NAMESPACES = {
    "": SVG,
    "xlink": "http://www.w3.org/1999/xlink",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "cc": "http://creativecommons.org/ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
}

subset.Options._drop_tables_default = [*subset.Options._drop_tables_default, "GDEF", "GPOS", "GSUB", "kern"]
"""Rules of a font about runs of letters, which are placed already: reducing them would be a third of drawing."""


@house_style
def save(
    figure: Figure, directory: Path, name: str, data: pd.DataFrame, *, title: str, description: str, source: str
) -> list[list]:
    """Write name.svg, name.pdf and name.csv into an existing directory, and clear the figure.

    The SVG is transparent and adapts to a dark page; the PDF is white, in the same layout.

    Parameters
    ----------
    figure
        What is drawn.
    directory, name
        Folder, and file name without its ending.
    data
        What the figure shows, with its index already turned into columns.
    title, description
        Accessible name and description of the SVG; title and subject of the PDF.
    source
        Where the figure comes from, for the metadata of both.

    Returns
    -------
    list
        What it tells at its places, see `told.places`.
    """
    (directory / f"{name}.csv").write_text(csv_text(data), encoding="utf-8", newline="\n")
    svg = directory / f"{name}.svg"
    metadata = {"Date": None, "Title": title, "Source": source}
    figure.savefig(svg, facecolor="none", dpi=200, metadata=metadata)
    svg.write_text(finish_svg(svg.read_text(encoding="utf-8"), description), encoding="utf-8", newline="\n")
    figure.set_layout_engine("none")  # that of the SVG stays: another one would take as long as drawing
    metadata = {"CreationDate": None, "Title": title, "Subject": description, "Keywords": source}
    figure.savefig(directory / f"{name}.pdf", facecolor="white", dpi=200, metadata=metadata)
    places = told.places(figure)
    figure.clear()
    return places


@house_style
def save_png(figure: Figure, directory: Path, name: str) -> None:
    """Write name.png, white, at 200 dots per inch; before `save`, which clears the figure."""
    figure.savefig(directory / f"{name}.png", facecolor="white", dpi=200, metadata={"Software": None})


def finish_svg(text: str, description: str) -> str:
    """matplotlib's SVG with a <desc>, dark colours and short coordinates; without comments, doctype and indentation."""
    for prefix, uri in NAMESPACES.items():
        ET.register_namespace(prefix, uri)
    root = ET.fromstring(text)
    title = root.find(f"{{{SVG}}}title")
    title.set("id", "title")
    desc = ET.Element(f"{{{SVG}}}desc", id="desc")
    desc.text = description
    style = ET.Element(f"{{{SVG}}}style")
    style.text = dark_rules()
    root.insert(1, desc)
    root.insert(2, style)
    root.set("role", "img")
    root.set("aria-labelledby", "title desc")
    for element in root.iter():
        for name in ("d", "x", "y"):
            if name in element.attrib:
                element.set(name, round_numbers(element.get(name)))
        element.text, element.tail = (text if text and text.strip() else None for text in (element.text, element.tail))
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def dark_rules() -> str:
    """CSS that replaces each colour of the house style on a dark page; viewers without CSS show the light colours."""
    rules = [
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    ]
    return "@media (prefers-color-scheme: dark){" + "".join(rules) + "}"


def round_numbers(path: str) -> str:
    """Coordinates or path data with at most two decimals (a hundredth of a point), and one blank between numbers."""
    short = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):z.2f}".rstrip("0").rstrip("."), path)
    return re.sub(r"\s*([A-Za-z])\s*|\s+", lambda between: between[1] or " ", short)
