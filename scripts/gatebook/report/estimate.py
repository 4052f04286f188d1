"""How large a report will be, from the sizes of its models and the config: asked before anything is computed.

The coefficients are bytes, found from the whole reports of 4 layers x 32 experts x 14 datasets and of 2 x 8 x 3, and
from the browser of 16 x 64 x 12. It counts what the default chapters take, of which those of `OTHERS` may be missing.
No report of a larger model has been made with them.
"""

import math
from collections.abc import Iterable, Mapping

from gatebook.files.sizes import format_bytes
from gatebook.problem import Problem

OTHERS = {
    "annotation": (340_000, 0, 900_000, 0),
    "evolution": (520_000, 54_000, 520_000, 0),
    "logit_lens": (450_000, 3_000, 1_300_000, 45_000),
    "expert_retention": (150_000, 0, 235_000, 0),
    "attention_heads": (250_000, 0, 450_000, 0),
    "factors": (330_000, 0, 650_000, 0),
    "interventions": (125_000, 0, 160_000, 0),
    "expert_circuits": (460_000, 0, 400_000, 0),
    "activation_patching": (570_000, 0, 820_000, 0),
    "expert_ablation": (200_000, 7_000, 400_000, 5_000),
    "meaning": (315_000, 0, 630_000, 0),
    "multiple_choice": (0, 22_000, 500_000, 22_000),
    "paths": (210_000, 12_000, 370_000, 7_000),
    "placement": (500_000, 0, 900_000, 0),
    "reach": (160_000, 8_500, 280_000, 51_000),
    "reuse": (265_000, 1_000, 400_000, 32_000),
    "steering": (285_000, 0, 260_000, 0),
    "transitions": (250_000, 32_000, 500_000, 0),
}
"""Bytes of a chapter that are shown, and by dataset, and that are linked to, and by dataset."""
LOADS, REMOVED, TOLD = 1000, 120, 100_000
"""Bytes for each expert and dataset in the loads through training and where it is removed, and for each layer in what
figures tell."""
PAIRED = {"coactivation": 42, "similarity": 37, "transitions": 134}
"""Bytes for every pair of experts of a layer in the metrics of a chapter."""
EXPLORED = {"coactivation": 9, "similarity": 13}
"""The same in the data scripts of its matrices, and at most `MOST_EXPLORED`: then layers are left out there."""
MOST_EXPLORED, MAPS = 2.9e6, 6e4
MARGIN = 1.3
"""What is advised is so much more than the estimate: it may be as much too low."""


def of_browser(settings: Mapping, model: Mapping) -> float:
    """Bytes of the data of a model's expert browser; see `sizes`."""
    layers, tokens = model["layers"], model["tokens"]
    read = model["datasets"] * settings["text_tokens"] * layers
    sets = layers * (model["experts"] + settings["pairs"] + settings["triples"])
    listed = min(settings["typical_tokens"], tokens / (4 * settings["minimum_count"]))
    contexts = sum(settings[name] for name in ("highest", "middle", "random"))
    return (
        sets * (25 * contexts + 120 * model["datasets"])
        + 14 * listed * layers
        + 5 * min(settings["stored_tokens"], tokens)
        + read * (2 * model["top_k"] * settings["texts"] + model["experts"] * settings["plots"])
    )


def sizes(models: Iterable[Mapping], chapters: Iterable[str], browser: Mapping) -> dict[str, dict[str, int]]:
    """Bytes that the reports of models take, by the key of the config that may limit them, and by model.

    `models` are {model, layers, experts, top_k, datasets, tokens}: layers and datasets are numbers, tokens those of all
    datasets. `chapters` are the names of those of the study, `browser` is that section of the config.
    """
    found = {"browser.megabytes": {}, "report.megabytes": {}, "report.download_megabytes": {}}
    chapters = list(chapters)
    paired = sum(PAIRED[name] for name in chapters if name in PAIRED)
    for model in models:
        experts, every = model["experts"], model["layers"] * model["experts"]
        scripts = of_browser(browser, model)
        pages, figures = 8.2e5 + 2600 * every, 3.15e6 + 1.2e5 * model["datasets"] + 500 * every
        tables = (575 + 675) * every * (model["datasets"] + 1)
        profiles = every * (6700 + 220 * model["datasets"])
        explored = sum(min(EXPLORED.get(name, 0) * every * experts, MOST_EXPLORED) for name in chapters)
        explored += MAPS if "maps" in chapters else 0
        told, others = TOLD * model["layers"], 5.8e6 + 3.3e5 * model["datasets"]
        for name in OTHERS.keys() & chapters:
            shown, shown_by_dataset, linked, linked_by_dataset = OTHERS[name]
            figures += shown + shown_by_dataset * model["datasets"]
            others += linked + linked_by_dataset * model["datasets"]
        tables += LOADS * every * (model["datasets"] + 1) if "evolution" in chapters else 0
        tables += REMOVED * every * (model["datasets"] + 1) if "expert_ablation" in chapters else 0
        bytes_ = (
            scripts,
            scripts + pages + figures + explored + told,
            paired * every * experts + tables + profiles + others,
        )
        for key, size in zip(found, bytes_, strict=True):
            found[key][model["model"]] = round(size)
    return found


def check(found: Mapping[str, Mapping[str, int]], limits: Mapping[str, float]) -> None:
    """A `Problem` that names all limits, in MB, that the sizes `found` of all models exceed; both are by the key of the
    config, which need not set a limit."""
    sums = {key: sum(of_models.values()) for key, of_models in found.items()}
    wrong = {key: sums[key] for key, limit in limits.items() if sums[key] > 1e6 * limit}
    if wrong:
        takes = ", ".join(f"{format_bytes(size)} for {key} of {limits[key]:g}" for key, size in wrong.items())
        advised = ", ".join(f"{key} to {math.ceil(MARGIN * size / 1e6)}" for key, size in wrong.items())
        raise Problem(
            f"config: the report would take about {takes}: set {advised}, or study fewer models, layers or datasets at "
            "a time."
        )
