"""How does the routing of one run differ from that of another?"""

from gatebook.chapters.base.contract import Chapter, Measure

MEASURES = {
    "relative_depth": Measure(
        "Relative depth",
        "1",
        "i / (L − 1), i = 0 … L − 1",
        "Where a layer is among all MoE layers of its model; a single layer has 1/2.",
        bounds=(0, 1),
    ),
    "difference": Measure(
        "Difference between runs",
        "that of the measure",
        "B − A at the same relative depth",
        (
            "How much more the second run has of a measure than the first; 0 when both route alike. Documents that "
            "both runs have read are drawn together; where they have read different ones, each run has draws of its "
            "own."
        ),
    ),
}


EFFECTS = {
    "normalised_entropy": (0.1, 0.5),
    "token_information": (0.04, 0.37),
    "coefficient_of_variation": (0.1, 0.5),
    "domain_information": (0.04, 0.34),
}
"""Borders of the effects, as in the chapters whose measures they are; of information 0.01 and 0.09 of ln 64, and of
log2 of 14 domains. `compare` in the config is the list of runs and has no room for them."""

CHAPTER = Chapter(
    title="Compare",
    question="How does the routing of one run differ from that of another?",
    introduction=[
        (
            "A run is a checkpoint of a model. A is the first run in the list “compare” of the configuration, B "
            "another one; each B has figures of its own. The measures are those of the chapters on decisiveness, "
            "load and domain specialization, which say what they mean."
        ),
        (
            "Layers are aligned by relative depth, 0 for the first MoE layer and 1 for the last, never by number, and "
            "experts are not aligned at all. If the runs have different numbers of layers, the one with more of them "
            "is interpolated at the depths of the other. If they have different numbers of experts, or select "
            "different numbers of them, part of a difference may be due to that alone."
        ),
        (
            "The intervals of B − A come from documents that are drawn for both runs together, because a document "
            "that is unusual for one run is often so for the other. They say how the difference would vary with other "
            "documents, not with other training runs. The null of every difference is 0."
        ),
    ],
    source=("Efron and Tibshirani (1993), An introduction to the bootstrap", None),
    measures=MEASURES,
    interval="bootstrap",
    null="The null of a comparison is no difference between the runs.",
    scope="runs",
    needs=("documents",),
)
