"""Which experts does a right answer need in several models?"""

from gatebook.chapters.base.contract import Borders, Chapter, Settings, borders
from gatebook.chapters.multiple_choice import MEASURES as ALL

NAMES = (
    "accuracy", "own_change", "control_change", "own_minus_control", "rank_change", "rank_change_renormalised",
    "renormalised_change",
)  # fmt: skip
MEASURES = {name: ALL[name] for name in NAMES}


class Thresholds(Settings):
    """Fixed before the run."""

    odds_effect: Borders = borders(0.36, 0.91, "log-odds in nats; Cohen's d of 0.2 and 0.5")


CHAPTER = Chapter(
    title="Multiple choice in several models",
    question="Which experts does a right answer need in several models?",
    introduction=[
        (
            "The chapter on multiple choice, of every run in the list “compare” of the configuration: what is removed "
            "from one layer, by the experts of a subject and by rank. Layers are those of each model; experts of two "
            "models have nothing in common but their task. Compare a line with the control of the same model."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="bootstrap",
    null="The null of every model is as much weight of its other experts.",
    scope="runs",
    needs=("tokens", "documents", "clusters", "model"),
    chapters=("multiple_choice",),
    thresholds=Thresholds,
)
