"""How few experts does a dataset need?"""

from math import inf
from typing import Annotated, Literal

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

FREQUENCY, WEIGHT, EFFECT = "frequency", "weight", "effect of removal"
EVERY, OTHER, RANDOM = "all datasets", "another dataset", "random"
RANKINGS = (FREQUENCY, WEIGHT, EFFECT, EVERY, OTHER, RANDOM)
"""By what the experts of a layer are ranked, on calibration documents; the last two are controls."""

MEASURES = {
    "retained": Measure(
        "Retained gain",
        "1",
        "(U − L_k) / (U − L), L_k the loss with k experts per layer, L with all, U that of the unigram model",
        (
            "How much of what the model knows beyond token frequencies is left if tokens may select k experts of each "
            "layer only: 1 with all experts, 0 if it predicts as the frequencies of token ids do."
        ),
    ),
    "advantage": Measure(
        "Retained gain, by frequency minus by another ranking",
        "1",
        "R_k by frequency − R_k by another ranking, on the same documents",
        "How much more the experts retain that a dataset selects most often than those of another ranking.",
    ),
    "smallest_keep": Measure(
        "Experts that are enough",
        "experts",
        "min k with R_j ≥ 0.95 for all j ≥ k that were tried",
        (
            "How few experts per layer retain as much as the setting `enough` says, of the numbers that were tried. At "
            "the lower end of its interval the upper end of the retained gain passes, at the upper end its lower end."
        ),
        bounds=(1, inf),
    ),
    "added_loss": Measure(
        "Added loss",
        "nats per token",
        "L_k − L",
        "How much worse the model predicts with k experts per layer; it needs no unigram model.",
    ),
    "gain": Measure(
        "Gain over the unigram model",
        "nats per token",
        "U − L",
        (
            "What the model knows beyond token frequencies. U is the loss of p = (c + t / V) / (n + t): c of the n "
            "tokens of the dataset's calibration documents are this one of t different ones, V is the vocabulary."
        ),
    ),
}


class Chosen(Settings):
    """Which experts are kept, by what, and on which text that is tried."""

    datasets: int = Field(
        4,
        ge=1,
        description="on how many it is tried, from the first to the last in the study's list that has a gain",
    )
    least_gain: float = Field(
        0.5,
        ge=0,
        description="nats per token by which a model surely beats the unigram model of a dataset that has a gain",
    )
    keep: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.125, 0.1875, 0.25, 0.375, 0.5, 0.75],
        min_length=1,
        description="shares of a layer's experts; numbers are rounded up, to no fewer than a token selects",
    )
    stage: Literal["score", "logit"] = Field(
        "score",
        description="score: experts that enter have the weight of their own score; logit: the router's logits of the "
        "others are minus infinity, so that a softmax shares out anew what they had",
    )
    random: int = Field(20, ge=2, description="random sets of experts, the same for all datasets")
    documents: int = Field(
        16, ge=2, description="on which it is tried, of each dataset: one of each cluster before a second one"
    )
    length: int = Field(64, ge=2, description="tokens of each, from its first one on; shorter documents are left out")
    enough: float = Field(0.95, gt=0, lt=1, description="retained gain that is enough")
    seed: int = Field(6, ge=0, description="of the documents and the random sets")


class Thresholds(Settings):
    """Fixed before the run."""

    few: float = Field(
        0.5, gt=0, lt=1, description="share of a layer's experts below which those that are enough are few"
    )
    shown: float = Field(0.25, gt=0, lt=1, description="share of a layer's experts at which rankings are compared")
    keep_effect: Borders = borders(0.1, 0.3, "share of a layer's experts, beside random ones")
    retained_effect: Borders = borders(0.02, 0.1, "share of the gain; a fiftieth and a tenth of what the model knows")


CHAPTER = Chapter(
    title="Retention",
    question="How few experts does a dataset need?",
    introduction=[
        (
            "If a dataset uses some experts of a layer most of the time, the others could be left out for it. This "
            "chapter leaves them out: tokens may select among the first k experts of a ranking, in all layers at "
            "once, and the question is how much of what the model knows beyond token frequencies is retained."
        ),
        (
            "Rankings are made on calibration documents, by how often their tokens select an expert, by its weight, "
            "and, if the chapter on ablation is in the report, by how much the loss rises without it. They are tried "
            "on other documents, of other clusters: experts that are chosen on the text they are tried on would look "
            "better than they are. Controls are the rankings of another dataset and of all of them, and random sets of "
            "as many experts."
        ),
        (
            "What is retained is a share of the gain over a unigram model, which is fitted on the calibration "
            "documents of the dataset. Where a model has hardly such a gain there is nothing to retain, and nothing is "
            "tried: that is so of an untrained model."
        ),
    ],
    source=("this study, as EMO keeps the k experts that a domain selects most often", None),
    measures=MEASURES,
    interval="bootstrap",
    also="The limits of smallest_keep are those of k at which the limits of the retained gain pass. None "
    "covers what other calibration documents would rank.",
    null="The null of the retained gain is what random sets of as many experts retain: their mean, and the limits "
    "between which 95 % of the sets lie.",
    needs=("tokens", "clusters", "model"),
    settings=Chosen,
    thresholds=Thresholds,
)
