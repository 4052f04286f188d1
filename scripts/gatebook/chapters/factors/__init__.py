"""Do router inputs consist of parts that a second fit finds again?"""

from math import inf
from typing import Annotated

from pydantic import Field, WithJsonSchema

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders
from gatebook.chapters.maps import LAYERS

TOKEN, DATASET, TYPE = "token id", "dataset", "token type"
CLASSES = (TOKEN, DATASET, TYPE)

MEASURES = {
    "found_factors": Measure(
        "Factors found again",
        "1",
        "share of the factors whose partner in a second fit has a cosine above the setting `again`",
        "Of how many factors another start of the fit finds the direction again; factors are matched one to one.",
        bounds=(0, 1),
    ),
    "found_elsewhere": Measure(
        "Of these, found in other documents",
        "1",
        "share of the factors found again whose partner in a fit to the other half of the clusters has such a cosine",
        "How many of them do not depend on which documents were read.",
        bounds=(0, 1),
    ),
    "found_variance": Measure(
        "Variance in factors found again",
        "1",
        "1 − Σ |a − Σ_f g_f d_f|² / Σ |a|², f: the factors found again",
        (
            "How much of what tells router inputs apart, in documents that no factor was fitted to, is made of parts "
            "that a second fit finds again."
        ),
        bounds=(-inf, 1),
    ),
    "variance": Measure(
        "Variance in all factors",
        "1",
        "the same of all factors",
        "How well the fit describes other documents. It says nothing of whether the factors are there.",
        bounds=(-inf, 1),
    ),
    "component_variance": Measure(
        "Variance in principal components",
        "1",
        "the same of as many principal components of the half that factors are fitted to",
        "What as many directions can hold at most if every token uses all of them.",
        bounds=(-inf, 1),
    ),
    "active": Measure(
        "Factors active in a token",
        "1",
        "mean number of factors with g > 0",
        "How many parts a router input consists of.",
        bounds=(0, inf),
    ),
    "explained": Measure(
        "Activation explained by a class",
        "1",
        "R² = (E_c[μ_c²] − μ²) / (E[g²] − μ²), means from pairs of tokens of different groups, mean over factors found "
        "again",
        "How much of when a factor is active is decided by the token id, the dataset or the type of the token.",
        bounds=(-inf, 1),
        null=0,
    ),
    "expert_correlation": Measure(
        "Correlation of a factor with its expert",
        "1",
        "Pearson correlation of g with the selection of the expert, mean over factors found again",
        (
            "How far a part goes with one expert: the one that it goes with most in the half of the clusters that it "
            "was fitted to, in the other half."
        ),
        bounds=(-1, 1),
    ),
}


class Chosen(Settings):
    """Which tokens, and what is fitted to them."""

    layers: Annotated[str | int | list, WithJsonSchema(LAYERS)] = Field(
        "first_middle_last",
        description="layers whose router inputs are fitted: first_middle_last of the studied ones, or as "
        "models.NAME.layers",
    )
    tokens: int = Field(1000, ge=50, description="of each dataset, whose router inputs are kept for this")
    per_window: int = Field(
        40, ge=1, description="of these from one window, at most; one window of each cluster before a second one"
    )
    number: int = Field(64, ge=2, description="of factors")
    sparsity: float = Field(
        0.1, gt=0, description="weight of the activations beside the squared error, of inputs of mean norm 1"
    )
    passes: int = Field(4, ge=1, description="over the tokens in a fit")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0, 1], min_length=2, max_length=2, description="of the two fits that are compared"
    )
    again: float = Field(0.9, gt=0, lt=1, description="cosine above which the second fit has found a factor again")
    examples: int = Field(5, ge=1, description="tokens in their context that are kept of each factor found again")
    seed: int = Field(8, ge=0, description="of the tokens, the halves of the clusters and the Gaussian")


class Thresholds(Settings):
    """Fixed before the run."""

    most: float = Field(0.5, gt=0, lt=1, description="share of the activation above which one class decides most of it")
    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="of factors that go with an expert")
    variance_effect: Borders = borders(0.05, 0.2, "share of the variance; a twentieth and a fifth")
    explained_effect: Borders = borders(0.05, 0.2, "share of the activation; a twentieth and a fifth")
    correlation_effect: Borders = borders(0.1, 0.3, "correlation; Cohen's (1988) small and medium r")


CHAPTER = Chapter(
    title="Factors",
    question="Do router inputs consist of parts that a second fit finds again?",
    introduction=[
        (
            "What a router receives for a token may be a sum of a few parts, such as “a digit” or “in code”, each "
            "present to some degree or not at all. A fit looks for directions of which every router input is such a "
            "sum, with activations that are never negative and mostly 0. Such a fit always finds directions, and it "
            "always describes part of what router inputs are, even if there are no parts."
        ),
        (
            "So the fit is made twice, from different random starts, and only factors that both find count. The same "
            "is done with Gaussian vectors of the same covariance, which have no parts. Factors are fitted to one half "
            "of the clusters; all that is said of them is of the other half."
        ),
        (
            "A factor that goes with an expert is no surprise by itself, because the router is linear in its input: "
            "compare with what the datasets alone bring about, and with the untrained model, whose router is as linear."
        ),
    ],
    source=(
        "Shafran et al. (2025), semi-nonnegative factors; Mairal et al. (2010), online dictionary learning",
        "https://arxiv.org/abs/2506.10920",
    ),
    measures=MEASURES,
    interval="jackknife",
    also="They are of the clusters that no factor was fitted to, and of the factors as they were fitted.",
    null=(
        "The null of factors is a Gaussian with the covariance of the router inputs, fitted the same way; that of "
        "their experts is the correlation that is left if tokens are permuted within each dataset."
    ),
    reads="tokens",
    needs=("tokens", "clusters", "model"),
    settings=Chosen,
    thresholds=Thresholds,
)
