"""How large a report will be, from the sizes of its models and the config: asked before anything is computed.

The coefficients are bytes, found from the whole reports of 4 layers x 32 experts x 14 datasets and of 2 x 8 x 3, and
from the browser of 16 x 64 x 12. It counts what the default chapters take. Of what these two reports show and link to
it says 2 % too little to 5 % too much; of one of 48 x 128 x 2, which was made later, 15 and 7 % too much.
"""

import math
from collections.abc import Iterable, Mapping

from gatebook.files.sizes import format_bytes
from gatebook.problem import Problem

PAIRED = {"coactivation": 42, "similarity": 37}
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
        others = 5.8e6 + 3.3e5 * model["datasets"]
        bytes_ = (scripts, scripts + pages + figures + explored, paired * every * experts + tables + profiles + others)
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
