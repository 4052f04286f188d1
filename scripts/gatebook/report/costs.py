"""What each chapter costs for OLMoE-1B-7B on the twelve datasets of config/olmoe.yaml: a table of config/README.md.

No study of that size has been run: all is arithmetic from three things that were measured, the forward passes of a GPU,
the analysis of a synthetic study of that size (benchmarks/README.md), and the jobs of the embedded study.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from gatebook.chapters.base.contract import Chapter
from gatebook.figures.words import format_duration

LAYERS, EXPERTS, TOP_K = 16, 64, 8
RATE = 120_000
"""Tokens per second of the base model on one H200, bfloat16 (benchmarks/README.md, "On a GPU")."""
WRITING = 0.53
"""Share of that rate with exact records written (the same table)."""
ANALYSIS = {
    "router_decisiveness": 6.41,
    "selection_frequency": 3.60,
    "domain_specialization": 7.59,
    "coactivation": 4.44,
    "token_overlap": 19.7,
    "vocabulary_specialization": 21.5,
}
"""Core-seconds for a million tokens of 16 layers and 64 experts, of which 8 are selected (the same file)."""
EMBEDDED = {
    "annotation": (4, 1.1),
    "determinants": (17, 2.1),
    "evolution": (51, 3.7),
    "transitions": (9, 1.9),
    "paths": (7, 0.9),
    "placement": (3, 1.5),
    "reach": (0, 1.6),
    "reuse": (7, 1.8),
    "logit_lens": (0, 9.3),
    "expert_ablation": (0, 1.7),
    "expert_retention": (0, 4.2),
    "interventions": (0, 0.3),
    "multiple_choice": (0, 5.0),
    "attention_heads": (0, 1.1),
    "meaning": (0, 1.0),
    "similarity": (0, 2.6),
    "factors": (100, 1.3),
    "maps": (40, 3.6),
    "router_decisiveness": (0, 5.7),
    "selection_frequency": (0, 4.1),
    "domain_specialization": (0, 4.8),
    "vocabulary_specialization": (0, 2.1),
    "token_overlap": (0, 0.8),
    "coactivation": (0, 1.8),
}
"""Seconds of a chapter's job in the embedded study, less 5 of start-up, if they grow with its tokens, and MB that its
metrics, tables and figures take."""
EMBEDDED_WORK = 168_000 * 4 * 4
"""Tokens, times layers, times experts of a token."""
NEURONS = 0.039
"""Core-seconds of matching the neurons of a pair of experts (benchmarks/README.md)."""
LACKING = {
    "training": "the model was not trained here",
    "checkpoints": "the model has one checkpoint",
    "asked": "nothing is asked for",
    "tasks": "no tasks are selected",
    "contrast": "no two of its datasets are contrasted",
}
"""What chapters may need and this study does not have."""
MADE_BY = {
    "annotation": ("naming", "name_experts"),
    "expert_ablation": ("ablation", "scan_ablation"),
    "factors": ("states", "sample_states"),
}
"""The files and rules of the jobs that run the model for a chapter, if not its own."""
MORE_EXPERTS = LAYERS * EXPERTS / (4 * 32)
"""Times as many as in the embedded study."""


def passes(name: str, settings: Mapping, datasets: int, tokens: int, window: int) -> float | None:
    """Tokens that a chapter's own job runs through the model, at most; None if that is not known.

    Parameters
    ----------
    name
        Of the chapter.
    settings
        Its section of the config.
    datasets, tokens, window
        Datasets of the study, tokens of each, and tokens of a window.

    Returns
    -------
    float or None
        Tokens.
    """
    known: dict[str, Callable[[], float]] = {
        "reach": lambda: (
            settings["tokens"] * _lengths(settings["lengths"])
            + settings["windows"] * window * (1 + len(settings["noise"]))
        ),
        "logit_lens": lambda: (
            datasets
            * window
            * (settings["windows"] + settings["fitted_windows"] + 3 * settings["removal_windows"] * LAYERS)
        ),
        # A run without an expert begins at its layer: half of the layers on average.
        "expert_ablation": lambda: datasets * window * settings["clusters"] * LAYERS * EXPERTS / 2,
        "expert_retention": lambda: (
            settings["datasets"]
            * settings["documents"]
            * settings["length"]
            * len(settings["keep"])
            * (5 + settings["random"])
        ),
        # A list of tokens and a form, some 30 labels of 5 tokens each after it, and what is written.
        "annotation": lambda: LAYERS * settings["named"] * (250 + settings["written"]),
        "multiple_choice": lambda: (
            datasets
            * 4
            * (settings["context"] + settings["answer"])
            * (settings["items"] * (1 + 2 * LAYERS) + settings["close_items"] * LAYERS * TOP_K)
        ),
        # Sequences of two halves, the second as the first, in another order, or new.
        "attention_heads": lambda: 6 * settings["sequences"] * settings["length"],
        # Every expert for every sampled token, as 64 / 8 passes; and as many for experts of random weights.
        "similarity": lambda: 2 * datasets * 150 * EXPERTS / TOP_K,
        "maps": lambda: datasets * 150,
        "factors": lambda: datasets * window * settings["tokens"] / min(settings["per_window"], window),
    }
    return known[name]() if name in known else None


def _lengths(lengths: list[int]) -> int:
    """Tokens of all texts of a token: its last n, and, up to half the longest, these after as many of another text."""
    return sum(lengths) + sum(2 * length for length in lengths if 2 * length <= max(lengths))


def core_seconds(name: str, settings: Mapping, datasets: int, tokens: int) -> float | None:
    """Core-seconds beside the model, at most; None if they are not known."""
    if name in ANALYSIS:
        return ANALYSIS[name] * datasets * tokens / 1e6
    if name == "similarity":
        return NEURONS * settings["matched_pairs"] * 1.2 * LAYERS  # the 1.2: random experts, too
    if name not in EMBEDDED:
        return None
    work = datasets * min(tokens, settings.get("tokens", tokens)) * LAYERS * TOP_K
    growing = EMBEDDED[name][0] * (work / EMBEDDED_WORK if name != "maps" else 1)
    return 5 + growing


def table(declared: Mapping[str, Chapter], root: Path) -> str:
    """The table as Markdown, of all chapters, from the repository at `root`."""
    config = yaml.safe_load((root / "config/olmoe.yaml").read_text(encoding="utf-8"))
    (model,) = (config["models"][name] for name in config["study"]["models"])
    datasets, tokens, window = len(config["study"]["datasets"]), model["tokens_per_dataset"], model["window"]
    extraction = datasets * tokens / (RATE * WRITING)
    records, asked = 93 * datasets * tokens * LAYERS / 1e9, _asked(root / "rules/extraction.smk", "extract_routing")
    rows = [
        "| chapter | GPU | cores | memory asked for | disk |",
        "|---|---|---|---|---|",
        f"| extraction, once for all chapters | {_time(extraction)} | beside the GPU | {_memory(asked, 0)} | "
        f"{records:.1f} GB of exact records |",
    ]
    for name, chapter in declared.items():
        settings = {key: field.default for key, field in chapter.settings.model_fields.items()} | config.get(name, {})
        file, made_by = MADE_BY.get(name, (name, f"measure_{name}"))
        rule = root / "rules" / f"{file}.smk"
        needs_gpu = "gpu=gpus" in rule.read_text(encoding="utf-8")
        through = passes(name, settings, datasets, tokens, window) if needs_gpu else 0
        megabytes = f"{EMBEDDED[name][1] * MORE_EXPERTS:.0f} MB" if name in EMBEDDED else "not estimated"
        cells = [
            f"`{name}`",
            "not estimated" if through is None else _time(through / RATE) if needs_gpu else "none",
            _time(core_seconds(name, settings, datasets, tokens)),
            _memory(_asked(rule, made_by), datasets * tokens),
            megabytes,
        ]
        lacks = [LACKING[need] for need in chapter.needs if need in LACKING]
        if chapter.scope == "runs":
            lacks.append("the study has one run")
        if lacks:
            cells[1:] = [f"left out: {lacks[0]}", "", "", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _asked(path: Path, rule: str) -> tuple[int, int]:
    """MB that a rule asks for, and those for a million tokens."""
    text = path.read_text(encoding="utf-8").split(f"rule {rule}:")[1]
    found = re.search(r"mem_mb=growing\((\d+)[^,)\n]*(?:, per_million=(\d+))?", text)
    return int(found[1]), int(found[2] or 0)


def _memory(asked: tuple[int, int], tokens: int) -> str:
    return f"{(asked[0] + asked[1] * tokens / 1e6) / 1000:.1f} GB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not estimated"
    return "under 1 s" if seconds < 1 else format_duration(seconds)
