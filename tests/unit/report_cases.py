"""A made-up site, as `render` takes it, and what a page of it is made of."""

import copy
from html.parser import HTMLParser
from pathlib import Path

TEMPLATES = Path(__file__).parents[2] / "report" / "templates"
NAN = float("nan")
PUBLISHED = {
    "source": "A paper & its figures",
    "source_url": "https://example.org/paper",
    "note": "Two runs differ.",
    "rows": [
        {
            "name": "Largest share",
            "dataset": "code",
            "layer": 7,
            "published": 0.625,
            "estimate": 0.5,
            "low": 0.375,
            "high": 0.5625,
            "difference": -0.125,
            "covered": False,
        }
    ],
    "absent": ["Largest share, poems"],
}


def make_figure(identifier: str, number: int, netcdf: str | None = None) -> dict:
    folder = f"figures/a model/main/{identifier}"
    return {
        "id": identifier,
        "number": number,
        "name": "entropy",
        "title": "Entropy falls with depth",
        "browser": "",
        "alt": "Line over 16 layers that falls from 0.91 to 0.62.",
        "caption": "Mean entropy of 1,200 documents.",
        "how_to_read": "Low values mean few experts.",
        "names": ["layer 0, expert 9"],
        "svg": f"{folder}/100 % #1.svg",
        "pdf": f"{folder}/entropy.pdf",
        "csv": f"{folder}/entropy.csv",
        "netcdf": netcdf,
        "rule": "plot_decisiveness",
        "command": "snakemake --cores 2 entropy.svg",
        "width": 720,
        "height": 400,
        "places": [[500, 250, "Layer 0: 1"]],
        "explored": None,
    }


def make_finding(chapter: str, figure: str, **changes) -> dict:
    return {
        "id": f"finding-{figure}",
        "chapter": chapter,
        "label": "a model, main",
        "browser": "",
        "question": "Is the router decisive?",
        "answer": "It spreads its weight.",
        "estimate": 0.73561,
        "low": 0.73124,
        "high": 0.74009,
        "unit": "share of ln 64",
        "null_name": "shuffled logits",
        "null_value": 0.97125,
        "null_low": 0.96,
        "null_high": 0.98,
        "reference_name": "untrained model",
        "reference_value": 0.99,
        "n": 4800,
        "n_unit": "documents",
        "verdict": "yes",
        "verdict_text": "The interval lies below the null.",
        "effect": "small to large",
        "exceptions": "Yet against shuffled logits it is above in layer 3.",
        "differs": ["layer"],
        "measure": {"name": "Entropy", "id": "metric-decisiveness-entropy", "meaning": "How undecided it is."},
        "kinds": ["surprising", "trained"],
        "figure": figure,
        **changes,
    }


def make_picture() -> dict:
    def tile(expert: int, style: str, **changes) -> dict:
        text = f"Expert {expert} serves {style}."
        return {"expert": expert, "code": "Po", "style": style, "strong": False, "text": text} | changes

    rows = [
        [tile(0, "colour-1", strong=True), tile(1, "others")],
        [tile(0, "type", code="nu"), tile(1, "nothing", code="")],
    ]
    return {
        "layers": [{"layer": layer, "tiles": tiles} for layer, tiles in zip((2, 5), rows, strict=True)],
        "legend": [{"code": "Po", "style": "colour-1", "name": "poems", "tiles": 1}],
        "datasets": [
            {"code": "Po", "name": "poems", "experts": [{"layer": 2, "expert": 0, "share": "90.1 %"}], "more": 2},
            {"code": "Co", "name": "code", "experts": [], "more": 0},
        ],
        "label": "a model, main",
        "meaning": "Full colour: much.",
        "browser": "decisiveness.html",
    }


def make_site() -> dict:
    first = make_finding("decisiveness", "entropy-1")
    second = make_finding(
        "load",
        "load-1",
        estimate=-3.25,
        low=-4.5,
        high=-2.0,
        null_name=None,
        null_value=None,
        null_low=None,
        null_high=None,
        reference_name=None,
        reference_value=None,
        verdict="unclear",
        measure=None,
        kinds=["null"],
    )
    third = make_finding(
        "load", "load-1", id="finding-load-2", estimate=NAN, low=None, high=NAN, verdict="no", kinds=[]
    )
    section = {"label": "a model, main"}
    return {
        "title": "A study",
        "description": "How one model routes.",
        "build": "3f9ac21",
        "in_one_line": ["a model: 2 layers × 3 experts"],
        "identity": [{"label": "Seed", "value": "1"}],
        "brief": [
            {"text": "Nothing shows more.", "example": "", "href": "#findings", "label": ""},
            {
                "text": "Experts differ.",
                "example": "Layer 0 expert 1 does most.",
                "href": "decisiveness.html#entropy-1",
                "label": "a model, main",
            },
        ],
        "pictures": [make_picture()],
        "findings": [first, second, third],
        "citation": {"text": "Somebody: Software.", "licence": "MIT"},
        "cautions": [{"title": "Numbers of experts", "text": "They mean nothing across layers."}],
        "chapters": [
            {
                "name": "decisiveness",
                "title": "Router decisiveness",
                "question": "How sure is the router?",
                "introduction": ["One paragraph.", "Another one."],
                "sections": [
                    {
                        **section,
                        "findings": [first],
                        "figures": [make_figure("entropy-1", 1, "data/e.nc"), make_figure("entropy-2", 2)],
                        "tables": [{"title": "Entropy by layer", "href": "tables/entropy.csv"}],
                        "published": [copy.deepcopy(PUBLISHED)],
                        "absent": [],
                    },
                    section
                    | {"label": "a model, step 5", "absent": ["Loss"]}
                    | dict.fromkeys(("findings", "figures", "tables", "published"), ()),
                ],
            },
            {
                "name": "load",
                "title": "Load",
                "question": "Is the load even?",
                "introduction": [],
                "sections": [
                    {**section, "findings": [second, third], "figures": [make_figure("load-1", 3)], "tables": []}
                    | {"published": [], "absent": []}
                ],
            },
        ],
        "model_pages": [],
        "methods": {
            "unmeasured": [
                {key: PUBLISHED[key] for key in ("source", "source_url", "note")}
                | {"rows": [{"name": "Saturation", "at": "10 % of training", "published": 0.6923}]}
            ],
            "metrics": [
                {
                    "name": "Entropy",
                    "id": "metric-decisiveness-entropy",
                    "formula": "H = −∑ₑ pₑ ln pₑ",
                    "definition": "Entropy of the scores.",
                    "unit": "nats",
                    "source": "A paper",
                    "source_url": "https://example.org/paper",
                    "page": "Decisiveness",
                    "href": "decisiveness.html",
                },
                {
                    "name": "CV",
                    "id": "metric-load-cv",
                    "formula": "std(c) / mean(c)",
                    "definition": "Spread of the load.",
                    "unit": "none",
                    "source": "this study",
                    "source_url": None,
                    "page": "Load",
                    "href": "load.html",
                },
            ],
            "statistics": ["Intervals come from resampling documents."],
            "configuration": "study:\n  seed: 1\n",
            "software": [{"name": "Python", "version": "3.11.7"}],
            "inputs": [{"name": "c4", "kind": "dataset", "identity": "c4@1a2b", "sha256": "ab" * 32, "bytes": 1234567}],
            "outputs": [{"path": "results/a.csv", "sha256": "cd" * 32, "bytes": 999}],
            "rules": [
                {"rule": "record", "makes": "Records of every token.", "reads": []},
                {"rule": "tally", "makes": "Counts of records.", "reads": ["record"]},
            ],
            "rebuild": ["cd study", "snakemake --cores 2"],
            "licences": [{"name": "Study", "licence": "MIT"}],
        },
    }


class Page(HTMLParser):
    """Elements (tag, attributes) of a page in document order, and its text without tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    def all(self, *tags: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag in tags]
