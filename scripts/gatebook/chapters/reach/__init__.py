"""How much text before a token does its routing need?"""

from math import inf
from typing import Annotated

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

AGAIN, DTYPE, KERNEL, NOISE = "run again", "another dtype", "another kernel", "noise of {:g} %"
"""Changes. What overlaps in other chapters are held against is the `ceiling` at `DTYPE`."""

MEASURES = {
    "recovered": Measure(
        "Routing that the last tokens settle",
        "1",
        "(A − A₀) / (1 − A₀), A the mean of |S ∩ Sₙ| / k over tokens, A₀ the same of tokens of different groups",
        (
            "How much of where a token goes the model knows from the token and the n − 1 before it: 1 if it goes where "
            "it goes in its whole text, 0 if it shares no more experts with it than another token does."
        ),
        bounds=(-inf, 1),
    ),
    "recovered_after_unrelated": Measure(
        "Routing that the last tokens settle after unrelated text",
        "1",
        "the same, with as many tokens of another text of a different group before the last n",
        "How much is left of it if what stands before is wrong.",
        bounds=(-inf, 1),
    ),
    "lost_to_unrelated": Measure(
        "Routing that unrelated text takes away",
        "1",
        "the first minus the second",
        "0 if text that has nothing to do with the token is no worse than no text.",
    ),
    "kept_experts": Measure(
        "Experts that a change leaves",
        "1",
        "mean of |S ∩ S′| / k over tokens in their whole text, S′ after the change",
        "How many of a token's experts stay if the model computes in another way, or its weights are a little wrong.",
        bounds=(0, 1),
    ),
    "ceiling": Measure(
        "Ceiling of overlaps",
        "1",
        "(A − A₀) / (1 − A₀) of the same",
        (
            "What the same model shows of itself. An overlap between checkpoints, models or texts that is as high as "
            "that after a change of precision is as good as equality."
        ),
        bounds=(-inf, 1),
    ),
    "equal_sets": Measure(
        "Tokens that keep all experts",
        "1",
        "share of tokens with S = S′",
        "Of how many tokens no expert changes.",
        bounds=(0, 1),
    ),
    "margin_changed": Measure(
        "Boundary margin of tokens that change experts",
        "1",
        "mean of the k-th minus the (k+1)-th largest of what the router selects by, before the change",
        "How close the decision was that fell the other way.",
        bounds=(0, inf),
    ),
    "margin_kept": Measure(
        "Boundary margin of tokens that keep their experts",
        "1",
        "the same of the others",
        "How close the decisions were that stayed.",
        bounds=(0, inf),
    ),
}


class Chosen(Settings):
    """Which tokens, how much of their text, and what is changed."""

    tokens: int = Field(
        750, ge=10, description="in all, at random: one of each cluster before a second one, datasets in turn"
    )
    lengths: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 4, 8, 16, 32, 64],
        min_length=1,
        description="in tokens, of the end of the text that is kept; only tokens with more before them are drawn than "
        "the longest of these",
    )
    windows: int = Field(180, ge=1, description="in all, drawn likewise, that are run again with a change")
    noise: list[Annotated[float, Field(gt=0)]] = Field(
        [0.01, 0.1], description="standard deviations of Gaussian noise on weights, in those of each tensor"
    )
    seed: int = Field(5, ge=0, description="of the tokens, the unrelated texts and the noise")


class Thresholds(Settings):
    """Fixed before the run."""

    most: float = Field(0.5, gt=0, lt=1, description="share of routing above which one token settles most of it")
    enough: float = Field(0.9, gt=0, lt=1, description="share of routing above which a few tokens are enough")
    stable: float = Field(
        0.95, gt=0, lt=1, description="ceiling of overlaps below which the way of computing decides where tokens go"
    )
    overlap_effect: Borders = borders(0.05, 0.2, "share of a token's experts; a twentieth and a fifth of them")


CHAPTER = Chapter(
    title="Reach",
    question="How much text before a token does its routing need?",
    introduction=[
        (
            "A router reads what attention has brought to a token from all the text before it. How much of that text "
            "matters is a question about the model as a function, and it is answered by calling it: with the last n "
            "tokens of a text alone, and with the last n tokens after as many of an unrelated text. Then the experts "
            "of the last token are compared with those that it has in its whole text."
        ),
        (
            "Only tokens are drawn that have more text before them than is ever kept. The first token of a text has a "
            "part of its own in many models, which send much attention there: special tokens that a text begins with "
            "are kept, and whatever else begins a shortened text takes this part. What a token alone settles is "
            "therefore what it settles as the beginning of a text."
        ),
        (
            "The same model does not always send a token to the same experts. It is run again in another precision, "
            "with another kernel of the experts and with noise on its weights. What another precision leaves of a "
            "token's experts is the ceiling of every overlap in this study, such as that between two checkpoints."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="jackknife",
    null="The null of an overlap is what two tokens of different groups of clusters share, and is subtracted: 0.",
    reads="tokens",
    needs=("tokens", "clusters", "model"),
    settings=Chosen,
    thresholds=Thresholds,
)
