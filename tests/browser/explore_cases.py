"""A small page with what readers explore in the place of figures, and what it was made from."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import jinja2
import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.base import page
from gatebook.figures import explored, graph, plotting
from gatebook.figures.explored import Explored, Graphs, Matrices, Matrix, Points, Ribbons, Step, Tree, Word, Words
from gatebook.figures.graph import Edge, Node
from gatebook.report import render
from gatebook.report.places import slug

REPORT = Path(__file__).parents[2] / "report"
LAYERS, EXPERTS = [0, 3, 7], 12
PLACE = "figures/tiny/main/pairs"
BROWSER = "browser-tiny.html"


def made(seed: int = 0) -> Matrices:
    """Lifts with intervals and q, of which those of expert 4 are not known; shares by row; overlaps of layers."""
    rng = np.random.default_rng(seed)
    dims = ("layer", "expert", "other")

    def array(values: np.ndarray, dims: tuple[str, ...] = dims) -> xr.DataArray:
        return xr.DataArray(values, {"layer": LAYERS}, dims)

    lift = np.exp2(rng.normal(0, 1.5, (len(LAYERS), EXPERTS, EXPERTS)))
    lift = np.sqrt(lift * lift.swapaxes(1, 2))
    lift[:, range(EXPERTS), range(EXPERTS)] = np.nan
    lift[0, 4] = lift[0, :, 4] = np.nan
    q = np.where(np.abs(np.log2(lift)) > 1, 0.001, 0.4)
    beside = {"low": array(0.8 * lift), "high": array(1.25 * lift), "q": array(q)}
    shares = array(rng.dirichlet(np.ones(EXPERTS), (len(LAYERS), EXPERTS)))
    between = array(rng.uniform(0.8, 1.4, (len(LAYERS), len(LAYERS))), ("layer", "other_layer"))
    between = (between + between.values.T) / 2
    between.values[np.diag_indices(len(LAYERS))] = np.nan
    nulls = {"loads explain all": 1.0}
    return Matrices(
        [
            Matrix(
                "lift", "Lift", array(lift), kind="ratio", limits=(1 / 8, 8), nulls=nulls, beside=beside, level=0.05
            ),
            Matrix("share", "Share of a row", shares, columns="router row", nulls={"even": 1 / EXPERTS}),
            Matrix("overlap", "Overlap of layers", between, kind="ratio", nulls={"random spaces": 1.0}),
        ],
        clustered="lift",
        load=array(rng.dirichlet(np.ones(EXPERTS), len(LAYERS)), ("layer", "expert")),
    )


HOSTILE = "</b><script>window.hacked = true</script>\u202e"


def made_points(seed: int = 0) -> Points:
    """Thirty tokens of three datasets in two spaces, by three projections; the text of the first one is hostile."""
    rng = np.random.default_rng(seed)
    dims = ("layer", "space", "projection", "point", "axis")
    coordinates = {"layer": LAYERS, "space": ["router input", "expert output"], "projection": ["PCA", "UMAP", "t-SNE"]}
    positions = rng.normal(0, 1, (len(LAYERS), 2, 3, 30, 2))
    expert = xr.DataArray(rng.integers(0, EXPERTS, (len(LAYERS), 30)), {"layer": LAYERS}, ("layer", "point"))
    dataset = xr.DataArray(np.array(["poems", "code", "web"])[np.arange(30) % 3], dims="point")
    texts = {part: [f"{part} {point} " for point in range(30)] for part in ("before", "text", "after")}
    texts["text"][0] = HOSTILE
    trust = xr.DataArray(rng.uniform(0.5, 1, (len(LAYERS), 2, 3)), coordinates, dims[:3])
    return Points(
        xr.DataArray(positions, coordinates, dims), {"dataset": dataset, "first expert": expert}, texts, trust
    )


def made_ribbons(seed: int = 0) -> Ribbons:
    """Six layers of two experts with bars and a bar for the others; nothing goes from the first bar to the second."""
    rng = np.random.default_rng(seed)
    tokens = np.array([[30, 0, 10], [5, 25, 10], [5, 15, 100]])
    steps = []
    for _ in range(5):
        ratio = np.exp2(rng.normal(0, 1, (3, 3)))
        low, high = 0.9 * ratio, 1.1 * ratio
        low[-1] = high[-1] = low[:, -1] = high[:, -1] = np.nan
        steps.append(Step(tokens, ratio, low, high))
        tokens = tokens.T
    return Ribbons([0, 1, 2, 4, 5, 6], [[7, 3, -1]] * 6, steps, (1 / 4, 4), "token ids alone")


def made_words() -> Words:
    """Two words in three layers; occurrences of "light" that mean lamp and weight part in the last one."""
    choices = np.array([[4, 1, 7]] * 3 + [[4, 1, 2]] * 2 + [[6, 1, 2]])
    light = Word("light", ["lamp", "weight"], choices, np.array([0, 0, 0, 1, 1, 1]))
    return Words([0, 3, 7], [light, Word("bar", [HOSTILE], choices[:1], np.array([0]))])


def made_tree() -> Tree:
    """Two windows of three layers: four paths, and three thousand of one token each below one of them."""
    many = np.column_stack([np.full((3000, 2), 9), np.arange(3000)])
    paths = np.concatenate([[[1, 2, 3], [1, 2, 4], [1, 5, 3], [2, 2, 2]], many])
    tokens = np.append([4000, 2000, 1000, 900], np.ones(3000, int))
    return Tree([[0, 3, 7], [3, 7, 8]], [paths, paths[:4]], [tokens, tokens[:4]], 20_000)


def made_graphs() -> Graphs:
    """A circuit of two experts of which one works against the answer, and another one."""
    nodes = [Node("embedding", -2), Node("L0E3", 1, 0, 3), Node("L1E5", 3, 1, 5), Node("output", 4, 2)]
    edges = [Edge(0, 1, 0.9, 0.85, 0.95), Edge(1, 2, 0.6, 0.5, 0.7), Edge(2, 3, 0.7, 0.65, 0.75)]
    edges += [Edge(1, 3, -0.2, -0.25, -0.15)]
    made = [graph.described(nodes, edges), graph.described(nodes[::3], [Edge(0, 1, 1.0, 1.0, 1.0)])]
    return Graphs(["operator", "bracket"], made, "of the gap")


def write(folder: Path, shown: Explored, build: str | None = None, *, names=("lift", "share")) -> Path:
    """Write a page with two figures to explore, its assets and its data; returns the page.

    names: what each shows first.
    """
    words = {
        "alt": "A matrix of lift, one cell for each pair of experts.",
        "caption": "n = 12.",
        "how_to_read": "See.",
        "names": [],
    }
    figures = []
    for name in map(slug, names):
        drawing, (ax,) = plotting.canvas(3)
        plotting.matrix(ax, np.ones((2, 2)), [0, 1], [0, 1], kind="magnitude", label="one")
        data = pd.DataFrame({"a": [1]})
        figures.append(page.Figure(f"{name}_figure", name, drawing=drawing, data=data, explores=name, **words))
    place = folder / PLACE
    place.mkdir(parents=True)
    chapter = SimpleNamespace(figures=lambda seen: figures, findings=lambda seen: [], explored=lambda seen: shown)
    page.write(place, chapter, SimpleNamespace(untrained=None), "made by a test")
    shutil.copytree(REPORT / "assets", folder / "assets")
    build = build or shown.scripts().build
    blocks = [
        words
        | {"id": f"figure-{slug(name)}", "number": f"1.{number}", "name": f"{slug(name)}_figure", "title": name}
        | {kind: f"{PLACE}/{slug(name)}_figure.{kind}" for kind in ("svg", "pdf", "csv")}
        | {
            "netcdf": None,
            "rule": "plot_chapter",
            "browser": BROWSER,
            "command": "snakemake",
            "width": 653,
            "height": 288,
        }
        | {
            "places": [],
            "explored": {"first": name, "build": build, "folder": f"{PLACE}/{explored.FOLDER}", "browser": BROWSER},
        }
        for number, name in enumerate(names, start=1)
    ]
    path = folder / "pairs.html"
    path.write_text(rendered(blocks), encoding="utf-8")
    return path


def rendered(figures: list[dict]) -> str:
    """The page of a chapter with these figures."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(REPORT / "templates"), autoescape=True)
    others = ("number", "count", "bytes", "duration", "web", "page", "terms", "term_anchor")
    environment.filters |= dict.fromkeys(others, str) | {"local": render.local_link, "named": render.named}
    environment.tests["of"] = bool
    section = {"label": "tiny, main", "findings": [], "figures": figures, "tables": [], "published": [], "absent": []}
    chapter = {"name": "pairs", "title": "Pairs", "question": "Which?", "introduction": [], "sections": [section]}
    site = {"title": "A study", "description": "It is tiny.", "build": "0" * 12, "chapters": [chapter]}
    return environment.get_template("chapter.html.j2").render(
        page="pairs.html", chapter=chapter, previous=None, following=None, site=site | {"model_pages": []}
    )
