"""What decides where a token goes?"""

from math import inf
from typing import Annotated

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

POSITION, DATASET, TOKEN, PREVIOUS = "position", "dataset", "token", "previous token"
TOKEN_DATASET, PAIR, TRIPLE = "token and dataset", "token and previous", "token and two previous"
CONTROL = "token, previous and next"
CLASSES = (POSITION, DATASET, TOKEN, PREVIOUS, TOKEN_DATASET, PAIR, TRIPLE, CONTROL)
LAST_TOKENS = 8
"""So many tokens that are the same make a context that is repeated."""

MEASURES = {
    "share_explained": Measure(
        "Share of routing explained",
        "1",
        "(E_c |μ_c|² − |μ|²) / (k − |μ|²), from pairs of tokens of the same class in different groups of clusters",
        (
            "How much of where tokens go a class decides: 0 if two tokens of the class share no more experts than any "
            "two, 1 if all of them. Of the tokens that have a partner of their class in another group."
        ),
        bounds=(-inf, 1),
    ),
    "coverage": Measure(
        "Tokens with a partner",
        "1",
        "share of tokens whose class another group of clusters has too",
        "Of how many tokens the share explained is known. Tokens that have a partner are not like the others.",
        bounds=(0, 1),
    ),
    "common_share": Measure(
        "Share of routing explained, common tokens",
        "1",
        "the same of the tokens that have a partner in every class",
        "The number by which classes may be compared.",
        bounds=(-inf, 1),
    ),
    "context_added": Measure(
        "Share that context adds to the token id",
        "1",
        "share of token and two previous − share of token, common tokens",
        "How much more is explained if the two tokens before are known too. What is farther back is not in it.",
    ),
    "domain_added": Measure(
        "Share that the dataset adds to the token id",
        "1",
        "share of token and dataset − share of token, common tokens",
        "How much more is explained if it is known which kind of text the token is in.",
    ),
    "beyond_control": Measure(
        "Share that the second token before adds beyond the next token",
        "1",
        "share of token and two previous − share of token, previous and next, common tokens",
        (
            "No router sees the token that follows. What it seems to explain comes of texts that repeat themselves; "
            "what the second token before explains beyond it does not."
        ),
    ),
    "expert_share": Measure(
        "Share of an expert's selection explained",
        "1",
        "(E_c μ_ce² − μ_e²) / (μ_e − μ_e²), common tokens",
        "How much of whether a token selects one expert a class decides.",
        bounds=(-inf, 1),
    ),
    "persistence": Measure(
        "Experts that tokens some distance apart share",
        "1",
        "mean of |Sₜ ∩ Sₜ₊d| / k over pairs of tokens d apart in a window",
        "How alike the experts of near tokens are.",
        bounds=(0, 1),
    ),
    "persistence_of_ids": Measure(
        "Experts that token ids some distance apart share",
        "1",
        "the same, each token replaced by one of its id in another group of clusters, both in different ones",
        "What would be left of persistence if where a token goes depended on nothing but its id.",
        bounds=(0, 1),
    ),
    "persistence_beyond_ids": Measure(
        "Experts that near tokens share beyond their ids",
        "1",
        "the first minus the second",
        "0 if tokens are routed as if each stood alone.",
        bounds=(-1, 1),
    ),
}


class Chosen(Settings):
    """What is read, and how far apart tokens are held against each other."""

    tokens: int = Field(
        50_000, ge=100, description="at most so many of each dataset, whole clusters in random order, the last one cut"
    )
    distances: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 4, 8, 16, 32, 64], min_length=1, description="in tokens, of the pairs that persistence is about"
    )


class Thresholds(Settings):
    """Fixed before the run."""

    most: float = Field(0.5, gt=0, lt=1, description="share explained above which a class is most of routing")
    share_effect: Borders = borders(
        0.02, 0.26, "share of variance; 0.02, 0.13 and 0.26 are Cohen's (1988) R² for small, medium and large"
    )
    overlap_effect: Borders = borders(0.05, 0.2, "share of a token's experts; a twentieth and a fifth of them")


CHAPTER = Chapter(
    title="Determinants",
    question="What decides where a token goes?",
    introduction=[
        (
            "A router reads a vector that holds the token, its position and, above the first layer, what attention has "
            "brought from the tokens before it. This chapter says how much of where a token goes follows from each: "
            "two tokens are alike in one thing, such as their id, and have nothing else in common; how many more "
            "experts do they share than any two tokens?"
        ),
        (
            "Tokens are compared across groups of sources only. A class with many values would otherwise seem to "
            "explain much because each of its values has few tokens. The price is that tokens whose class occurs in "
            "one group only say nothing. Their number grows as classes become finer, and those that are left are the "
            "more repetitive ones: classes are compared on the tokens that have a partner in all of them."
        ),
        (
            "Explained does not mean caused. Texts repeat themselves, so that a token that follows, which the router "
            "cannot know, seems to explain something too. It is the control. What an untrained model shows is no "
            "achievement of training: its router sends equal vectors to equal experts as well."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="jackknife",
    null="The null of a share explained is 0, and that of persistence is what token ids alone give.",
    reads="tokens",
    needs=("tokens",),
    settings=Chosen,
    thresholds=Thresholds,
)
