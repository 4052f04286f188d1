"""Budgets: how large the pages about a study may become, in MB (10⁶ bytes), from its size.

What a page needs to show does not grow without end, but with the layers, experts, datasets and chapters that a study
has. At 16 layers x 64 experts x 12 datasets and 10 chapters these are 12 MB for a model's expert browser, 20 MB for all
that the report shows, and 62 MB for what it links to.
"""

LARGE = {"layers": 16, "experts": 64, "datasets": 12}
"""The size at which budgets are stated."""


def browser(layers: int, experts: int, datasets: int) -> float:
    """Of the data of a model's expert browser: 3 MB, and 9 by layers x experts, 6 of them by datasets too."""
    return 3 + 3 * _cells(layers, experts) * (1 + 2 * datasets / LARGE["datasets"])


def shown(layers: int, experts: int, datasets: int, chapters: int) -> float:
    """Of all that the report shows about a model: its browser, and for a chapter 0.5 MB and 0.3 by layers x experts."""
    return browser(layers, experts, datasets) + chapters * (0.5 + 0.3 * _cells(layers, experts))


def downloads(layers: int, experts: int, datasets: int, chapters: int) -> float:
    """Of what the report links to about a model: for a chapter 0.6 MB and 0.6 by datasets, and 50 by layers x experts x
    (datasets and experts, halved)."""
    beside = datasets / LARGE["datasets"] + experts / LARGE["experts"]
    return 0.6 * chapters * (1 + datasets / LARGE["datasets"]) + 25 * _cells(layers, experts) * beside


def _cells(layers: int, experts: int) -> float:
    return layers * experts / (LARGE["layers"] * LARGE["experts"])
