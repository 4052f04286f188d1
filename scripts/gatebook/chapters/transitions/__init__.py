"""What does the choice of one layer say about that of the next?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

FIRST, TOKEN, BOTH = "first choice before", "token id", "token id and first choice before"
CLASSES = (FIRST, TOKEN, BOTH)
FEWEST = 5
"""Tokens that ids alone must let expect of a flow whose lift is given."""

MEASURES = {
    "mutual_information": Measure(
        "Information of a first choice about the next one",
        "bits",
        "H(a) + H(b) − H(a, b), each by Miller and Madow, of the first choices a, b of a token in two adjacent layers",
        "How much is known of the first choice in a layer if that in the layer before is known.",
        bounds=(-inf, inf),
    ),
    "information_of_ids": Measure(
        "Information that token ids alone give",
        "bits",
        "the same of the counts expected if each layer depended on the token id alone: Σₜ bₜ · mean of a over tokens "
        "of the same id in other groups of clusters",
        "What the first would be if nothing but the token's id made two layers go together.",
        bounds=(0, inf),
    ),
    "information_of_ids_and_datasets": Measure(
        "Information that token ids and datasets give",
        "bits",
        "the same, over tokens of the same id and dataset",
        "What the first would be if nothing but the token's id and its kind of text made two layers go together.",
        bounds=(0, inf),
    ),
    "information_beyond_ids": Measure(
        "Information of a first choice about the next one beyond token ids",
        "bits",
        "the first minus the second",
        "0 if a layer's choice says of the next layer's what the token id says.",
    ),
    "next_entropy": Measure(
        "Entropy of the next first choice",
        "bits",
        "H(b), by Miller and Madow",
        "How much there is to know of a first choice.",
        bounds=(0, inf),
    ),
    "share_explained": Measure(
        "Share of the next set explained",
        "1",
        "(E_c |μ_c|² − |μ|²) / (k − |μ|²), from pairs of tokens of the same class in different groups of clusters",
        "How much of which experts the next layer selects a class decides, of tokens with a partner in all classes.",
        bounds=(-inf, 1),
    ),
    "share_added": Measure(
        "Share of the next set that the first choice before adds to the token id",
        "1",
        "share of both − share of the token id, same tokens",
        "0 if the layer before says no more about the next set than the token id alone.",
    ),
    "next_accuracy": Measure(
        "Next first choices told by the one before",
        "1",
        "share of tokens whose first choice is the most frequent one after the same choice before, in other groups",
        "How often the next first choice is told from the present one, on text not counted for it.",
        bounds=(0, 1),
    ),
    "majority_accuracy": Measure(
        "Next first choices told by their frequency alone",
        "1",
        "share of tokens whose first choice is the most frequent one in other groups",
        "How often the next first choice is told without knowing the present one.",
        bounds=(0, 1),
    ),
    "accuracy_gained": Measure(
        "Next first choices told by the one before, beyond their frequency",
        "1",
        "the one minus the other",
        "0 if the present choice says nothing.",
    ),
    "same_number": Measure(
        "Correlation of experts of the same number",
        "1",
        "mean of φ(e, e) − mean of φ(e, e'), φ the correlation of two experts' selections in adjacent layers",
        "0 if equal numbers mean nothing, as they should: experts are numbered at random.",
    ),
}


class Chosen(Settings):
    """What is read."""

    tokens: int = Field(
        50_000, ge=100, description="at most so many of each dataset, whole clusters in random order, the last one cut"
    )


class Thresholds(Settings):
    """Fixed before the run."""

    information_effect: Borders = borders(0.05, 0.5, "bits; a fair coin has one")
    share_effect: Borders = borders(
        0.02, 0.26, "share of variance; 0.02, 0.13 and 0.26 are Cohen's (1988) R² for small, medium and large"
    )
    accuracy_effect: Borders = borders(0.05, 0.2, "share of the tokens; one in twenty and one in five")
    correlation_effect: Borders = borders(0.1, 0.5, "correlation; Cohen's (1988) small and large r")


CHAPTER = Chapter(
    title="Transitions",
    question="What does the choice of one layer say about that of the next?",
    introduction=[
        (
            "Pictures of tokens that flow from the experts of one layer to those of the next always show broad "
            "streams. Most of them say no more than that both layers know the token: all commas go to one expert here "
            "and to another one there. The question is what is left when that is taken away."
        ),
        (
            "So flows are held against those that token ids alone give: for every token, what tokens of the same id in "
            "other groups of sources chose in the layer before. No token is its own partner, so rare ids do not hand "
            "their own choices back, as a permutation among tokens of the same id would."
        ),
        (
            "A transition is not a connection: the next layer reads the residual stream, not the number of an expert. "
            "What two layers share beyond the id is context that both of them use."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="jackknife",
    null="The null of transitions is what token ids alone give.",
    reads="tokens",
    needs=("tokens", "order"),
    settings=Chosen,
    thresholds=Thresholds,
)
