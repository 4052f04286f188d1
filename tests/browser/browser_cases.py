"""A small study written as the expert browser's folder, counted token by token, with hostile texts among its tokens."""

import math
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import jinja2
import numpy as np

from gatebook.files.data_scripts import DataScripts
from gatebook.measures import contexts
from gatebook.report import render

REPORT = Path(__file__).parents[2] / "report"

SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = "\"><img src=x onerror='window.hacked = 1'>"
HOSTILE = [
    SCRIPT,
    IMAGE,
    "\u202eright\u202c to left\x07",
    "Ã\ufffd",
    "x" * 10_000,
    "'\"&amp;${1}`",
    "שלום",
    "</script>",
]
TOKENS = ["\\n", " the", "the", " cat", " sat", ".", "\\\\n", " ", *HOSTILE]
LAYERS = [3, 7]
EXPERTS, TOP_K = 8, 3
DATASETS = ["code", "prose.question_only"]
DOCUMENTS = {"code": {"a.py": 40, SCRIPT: 50}, "prose.question_only": {"1": 60, "2": 30, "\u202e3": 30}}
MODES = ["subset", "ordered", "prefix"]
SETTINGS = {"highest": 30, "per_token": 3, "middle": 15, "random": 20, "around": 12, "heats": 9}
TEXT_TOKENS = 32
DROPPED = ["shades in a context"]
PAIRS, TRIPLES, MINIMUM_COUNT, OFTEN = 6, 3, 12, 10


class Study:
    """Random routing: `token`, `dataset`, `position` (token,); `selected`, `weight` (layer, token, rank)."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.sizes = [sum(DOCUMENTS[name].values()) for name in DATASETS]
        tokens = sum(self.sizes)
        self.token = rng.integers(len(TOKENS), size=tokens)
        self.token[: len(TOKENS)] = np.arange(len(TOKENS))
        self.dataset = np.repeat(np.arange(len(DATASETS)), self.sizes)
        self.position = np.concatenate([np.arange(size) for size in self.sizes])
        scores = rng.standard_normal((len(LAYERS), tokens, EXPERTS)) * 2
        scores[..., 0] += 2
        exponential = np.exp(scores)
        self.probability = exponential / exponential.sum(axis=-1, keepdims=True)
        self.selected = np.argsort(-scores, axis=-1)[..., :TOP_K]
        self.weight = np.take_along_axis(self.probability, self.selected, axis=-1)

    def members(self, layer: int, experts: tuple[int, ...], mode: str) -> list[int]:
        """Tokens that the mode counts for a set of experts in a layer's place."""
        size = len(experts)
        chosen = self.selected[layer].tolist()
        if mode == "subset":
            return [i for i, each in enumerate(chosen) if set(experts) <= set(each)]
        first = [tuple(each[:size]) for each in chosen]
        if mode == "ordered":
            return [i for i, each in enumerate(first) if each == experts]
        return [i for i, each in enumerate(first) if set(each) == set(experts)]

    def sets(self, layer: int, mode: str, size: int, most: int) -> list[tuple[int, ...]]:
        """The most frequent sets of a size."""
        found = Counter()
        for each in self.selected[layer].tolist():
            options = combinations(each, size) if mode == "subset" else [tuple(each[:size])]
            found.update(option if mode == "ordered" else tuple(sorted(option)) for option in options)
        return [experts for experts, _ in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:most]]

    def by_dataset(self, tokens: list[int]) -> list[int]:
        """How many of some tokens each dataset has."""
        return np.bincount(self.dataset[tokens], minlength=len(DATASETS)).tolist()


def _set(study: Study, layer: int, experts: tuple[int, ...], mode: str, modes: list[int]) -> dict:
    members = study.members(layer, experts, mode)
    weights = [
        sum(w for e, w in zip(study.selected[layer, i], study.weight[layer, i], strict=True) if e in experts)
        for i in members
    ]
    high, rand = contexts.choose(
        np.array(members, int),
        np.array(weights),
        study.token[members],
        **{key: SETTINGS[key] for key in ("highest", "per_token", "random")},
        rng=np.random.default_rng(0),
    )
    middle = contexts.middle(
        np.array(members, int),
        np.array(weights),
        study.token[members],
        number=SETTINGS["middle"],
        per_token=SETTINGS["per_token"],
        others=np.concatenate([high, rand]),
    )
    weight = dict(zip(members, weights, strict=True))
    shown = {"high": high, "mid": middle, "rand": rand}
    lines = {
        name: [[int(study.dataset[i]), int(study.position[i]), float(f"{weight[i]:.4g}")] for i in part]
        for name, part in shown.items()
    }
    heat = {}
    if 0 in modes:
        peak = max(weights, default=1)
        step = {i: math.ceil(9 * weight[i] / peak) for i in members}
        around = range(-SETTINGS["around"], SETTINGS["around"] + 1)
        digits = [str(step.get(i + by, 0)) for part in shown.values() for i in part for by in around]
        heat = {"heat": "".join(digits), "peak": float(f"{peak:.3g}")}
    following = [study.token[i + 1] for i in members if i + 1 < len(study.token)]
    return (
        {
            "e": list(experts),
            "m": modes,
            "n": len(members),
            "d": study.by_dataset(members),
            "top": {"input": _top(study.token[members]), "next": _top(following)},
            "own": _own(study, study.token[members]),
        }
        | lines
        | heat
    )


def _top(tokens) -> list[list]:
    counts = Counter(int(token) for token in tokens)
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:20]
    return [[token, number, float(f"{number / counts.total():.4g}")] for token, number in most]


def _own(study: Study, tokens: np.ndarray) -> list[list]:
    total = np.bincount(study.token)
    counts = {token: number for token, number in Counter(tokens.tolist()).items() if total[token] >= OFTEN}
    most = sorted(counts, key=lambda token: (-counts[token] / total[token], -counts[token], token))[:20]
    return [[token, counts[token], float(f"{counts[token] / total[token]:.3g}")] for token in most]


def _layer(study: Study, layer: int) -> list[dict]:
    found = [_set(study, layer, (expert,), "subset", [0]) for expert in range(EXPERTS)]
    found += [_set(study, layer, (expert,), "ordered", [1, 2]) for expert in range(EXPERTS)]
    for number, mode in enumerate(MODES):
        for size, most in ((2, PAIRS), (3, TRIPLES)):
            found += [_set(study, layer, experts, mode, [number]) for experts in study.sets(layer, mode, size, most)]
    return found


def _tokens(study: Study, layer: int, listed: list[int]) -> dict:
    rows = {"token": listed, "share": [], "expert": [], "selected": [], "selected_expert": []}
    for token in listed:
        chosen = study.selected[layer, study.token == token]
        for experts, (share, name) in ((chosen[:, 0], ("share", "expert")), (chosen, ("selected", "selected_expert"))):
            most = Counter(experts.ravel().tolist()).most_common(3)
            rows[share].append([round(number / len(chosen), 4) for _, number in most])
            rows[name].append([expert for expert, _ in most])
    return rows


def data_scripts(study: Study) -> DataScripts:
    """The data of the study: all tokens are stored, and the first document of each dataset is a reading text."""
    made = DataScripts()
    counts = np.bincount(study.token, minlength=len(TOKENS))
    listed = np.flatnonzero(counts >= MINIMUM_COUNT).tolist()
    scale = float(study.weight.max())
    texts = [(number, next(iter(DOCUMENTS[name]))) for number, name in enumerate(DATASETS)]
    made.add(
        "index",
        {
            "model": "tiny",
            "checkpoint": "main",
            "layers": LAYERS,
            "experts": EXPERTS,
            "top_k": TOP_K,
            "probability": "softmax",
            "kinds": ["input", "next"],
            "datasets": [
                {"name": name, "tokens": size, "documents": len(DOCUMENTS[name]), "stored": size}
                for name, size in zip(DATASETS, study.sizes, strict=True)
            ],
            "modes": MODES,
            "contexts": SETTINGS,
            "weights": True,
            "pairs": PAIRS,
            "triples": TRIPLES,
            "minimum_occurrences": 10,
            "false_discovery_rate": 0.05,
            "texts": [
                {"dataset": DATASETS[number], "document": document, "tokens": TEXT_TOKENS, "plots": number == 0}
                for number, document in texts
            ],
            "dropped": DROPPED,
            "inputs": True,
            "fours": True,
            "megabytes": 12,
            "typical_tokens": len(listed),
            "often": OFTEN,
            "id_bytes": 1,
            "weight_scale": scale,
            "weight_is_probability": False,
        },
    )
    made.add("vocabulary", {"id": list(range(5, 5 + len(TOKENS))), "text": TOKENS, "count": counts.tolist()})
    for number, name in enumerate(DATASETS):
        lengths = list(DOCUMENTS[name].values())
        made.add(
            f"store/{name}",
            {
                "documents": list(DOCUMENTS[name]),
                "start": np.cumsum([0, *lengths[:-1]]).tolist(),
                "token": study.token[study.dataset == number].tolist(),
            },
        )
    for number, layer in enumerate(LAYERS):
        made.add(f"experts/{layer}", {"sets": _layer(study, number)})
        pairs = [len(study.members(number, pair, "subset")) for pair in combinations(range(EXPERTS), 2)]
        made.add(f"pairs/{layer}", {"n": pairs})
        specific = study.sets(number, "subset", 3, TRIPLES + 3)[TRIPLES:]
        made.add(
            f"sets/{layer}",
            {
                "rows": {
                    "mode": [0] * 3,
                    "e": [list(experts) for experts in specific],
                    "dataset": [0, 1, 0],
                    "n": [len(study.members(number, experts, "subset")) for experts in specific],
                    "c": [2, 3, 1],
                    "score": [0.9, 0.85, 0.8],
                    "low": [0.7, 0.75, 0.6],
                    "high": [1, 0.95, 1],
                    "q": [0.001, 0.002, 0.04],
                },
                "tested": [[9, 9], [0, 0], [0, 0]],
                "specific": [[4, 1], [0, 0], [0, 0]],
            },
        )
        made.add(f"tokens/{layer}", _tokens(study, number, listed))
        made.add(f"inputs/{layer}", _inputs(study, number))
        made.add(f"fours/{layer}", [{"e": [[0, 1, 2, 3]], "n": [1234]}] * (EXPERTS - 1) + [{"e": [], "n": []}])
    by_dataset = [study.by_dataset(np.flatnonzero(study.token == token).tolist()) for token in listed]
    made.add("tokens/counts", {"token": listed, "d": by_dataset})
    for number, _ in texts:
        span = np.flatnonzero(study.dataset == number)[:TEXT_TOKENS]
        made.add(f"texts/{number}", {"token": study.token[span].tolist()})
        weights = np.rint(255 * study.weight[:, span] / scale).astype(np.uint8)
        made.add(f"texts/{number}-layers", study.selected[:, span].astype(np.uint8).tobytes() + weights.tobytes())
        if number == 0:
            plots = np.rint(255 * np.sqrt(study.probability[:, span])).astype(np.uint8)
            made.add(f"texts/{number}-plots", plots.tobytes())
    return made


def _inputs(study: Study, number: int) -> dict:
    """A map on which a token is at its place and its weight."""
    experts = []
    for expert in range(EXPERTS):
        mine = np.argwhere(study.selected[number] == expert)
        weight = study.weight[number][tuple(mine.T)]
        lines = []
        for place in np.argsort(-weight)[:5].tolist():
            token = mine[place, 0]
            here = int(study.position[token]), int(study.token[token]), float(weight[place])
            lines.append([int(study.dataset[token]), *here, float(here[0]), here[2]])
        experts.append(lines)
    return {"variance": 0.25, "random": [[0, 0, 0], [1, 100, 1]], "experts": experts}


def found_scripts(study: Study) -> DataScripts:
    """What chapters found, made up where it is not counted: intervals are 0.01 to either side, q is 0.001 or 0.5."""
    made = DataScripts()
    around = lambda value: [float(f"{value:.3g}"), max(0, value - 0.01), value + 0.01]  # noqa: E731
    types = ["number", "word"]
    made.add("found/index", {"confidence": 0.95, "rate": 0.05, "datasets": DATASETS, "types": types})
    for number, layer in enumerate(LAYERS):
        members = [study.members(number, (expert,), "subset") for expert in range(EXPERTS)]
        shares = [np.array(study.by_dataset(mine)) / study.sizes for mine in members]
        pairs = list(combinations(range(EXPERTS), 2))
        content = {
            "load": [around(len(mine) / len(study.token)) for mine in members],
            "first": [around(float(np.mean(study.selected[number, :, 0] == one))) for one in range(EXPERTS)],
            "ranks": [(study.selected[number] == one).sum(axis=0).tolist() for one in range(EXPERTS)],
            "entropy": [[0.5, 0.4, 0.6]] * (EXPERTS - 1) + [[None] * 3],
            "entropy_of_all": 0.7,
            "domains": [[[*around(share), 0.001 if i else 0.5] for i, share in enumerate(mine)] for mine in shares],
            "types": [[[0.2, 0.15, 0.25], [0.8, 0.75, 0.85]]] * EXPERTS,
            "types_of_all": [0.1, 0.9],
            "nearest": [[[(one + 1) % EXPERTS, 0.25]] for one in range(EXPERTS)],
            "expected": [20.0] * len(pairs),
            "low": [0.5] * len(pairs),
            "high": [1.5] * len(pairs),
            "q": [None, *[0.00001] * (len(pairs) - 1)],
        }
        made.add(f"found/{layer}", content)
    return made


def page(folder: str, build: str, found: list[dict]) -> str:
    """The text of the page for data scripts of a build in a folder; `found`: folder and build of those of chapters."""
    entry = {"file": "browser-tiny.html", "title": "Expert browser"}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(REPORT / "templates"), autoescape=True)
    environment.filters["local"] = render.local_link
    return environment.get_template("browser.html.j2").render(
        page=entry["file"],
        title=entry["title"],
        site={
            "title": "A study",
            "description": "It is tiny.",
            "build": "0" * 12,
            "chapters": [],
            "model_pages": [entry],
        },
        browser={"model": "tiny", "checkpoint": "main", "folder": folder, "build": build, "found": found},
    )


def write(folder: Path, study: Study, chapters: bool = False) -> Path:
    """Write the page, its assets and its data, `chapters`: with what these found, into a folder; returns the page."""
    made, known = data_scripts(study), found_scripts(study)
    place, beside = "browser/tiny/main", "experts/tiny/main"
    found = [{"folder": beside, "build": known.build}] if chapters else []
    files = {f"{place}/{name}": text for name, text in made.files().items()}
    files |= {f"{beside}/{name}": text for name, text in known.files().items()} if chapters else {}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copytree(REPORT / "assets", folder / "assets")
    path = folder / "browser-tiny.html"
    path.write_text(page(place, made.build, found), encoding="utf-8")
    return path
