"""Which experts carry the load?"""

from math import inf
from typing import Annotated

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "coefficient_of_variation": Measure(
        "Coefficient of variation of the load",
        "1",
        "CV = std(c) / mean(c), ddof 0",
        "Standard deviation of the experts' loads, relative to the mean load.",
        bounds=(0, inf),
        bias="square",
    ),
    "gini": Measure(
        "Gini coefficient of the load",
        "1",
        "Σᵢ Σⱼ |cᵢ − cⱼ| / (2 E Σᵢ cᵢ)",
        "Inequality of the loads: 0 when all are equal, near 1 when one expert has everything.",
        bounds=(0, 1),
        bias="square",
    ),
    "normalised_slot_entropy": Measure(
        "Slot entropy / log₂ E",
        "1",
        "−Σₑ sₑ log₂ sₑ / log₂ E, sₑ = cₑ / (k T)",
        "Evenness of the loads: 1 when all are equal.",
        bounds=(0, 1),
        bias="level",
    ),
    "slot_entropy": Measure(
        "Slot entropy",
        "bits",
        "−Σₑ sₑ log₂ sₑ, sₑ = cₑ / (k T)",
        "Evenness of the loads in bits; its maximum is log2 E.",
        bounds=(0, inf),
        bias="level",
    ),
    "max_violation": Measure(
        "Largest overload (MaxVio)",
        "1",
        "maxₑ cₑ E / (k T) − 1",
        "How far the busiest expert is above an even load.",
        bounds=(0, inf),
        bias="square",
    ),
    "dead_experts": Measure(
        "Experts never selected",
        "experts",
        "number of e with cₑ = 0",
        "Experts that no token of the study selects.",
        bounds=(0, inf),
    ),
    "load_balancing_loss": Measure(
        "Load-balancing loss",
        "1",
        "E Σₑ fₑ Pₑ, fₑ = cₑ / T, Pₑ = E[pₑ]",
        "The auxiliary loss of training, on this study's tokens, per layer; k when loads are even.",
        bounds=(0, inf),
        bias="level",
    ),
    "z_loss": Measure(
        "Router z-loss",
        "1",
        "E[(ln Σₑ exp zₑ)²]",
        "The auxiliary loss that keeps the router's logits small, on this study's tokens.",
        bounds=(0, inf),
    ),
}


class Chosen(Settings):
    """Of the simulated expert capacity."""

    capacity_factors: list[Annotated[float, Field(gt=0)]] = Field(
        [1.0, 1.25, 1.5, 2.0],
        min_length=1,
        description="capacities of an expert, in even shares of a batch",
        json_schema_extra={"uniqueItems": True},
    )
    batch_tokens: int = Field(2048, ge=1, description="tokens of a batch, rounded up to whole documents")


class Thresholds(Settings):
    """Fixed before the run."""

    balanced_variation: float = Field(0.5, gt=0, description="coefficient of variation below which a load is balanced")
    dropped_share: float = Field(0.01, ge=0, le=1, description="share of dropped selections that is too much")
    variation_effect: Borders = borders(
        0.1, 0.5, "coefficient of variation; loads a tenth apart drop hardly anything, 0.5 is `balanced_variation`"
    )
    overload_effect: Borders = borders(
        0.25, 1, "MaxVio; capacity factors of 1.25 and 2 hold that much (ST-MoE, in training and in use)"
    )
    dead_effect: Borders = borders(0.01, 0.1, "share of a layer's experts, and so of its parameters, without use")
    dropped_effect: Borders = borders(
        0.01, 0.1, "share of selections; Switch drops less than 0.01 in training, ST-MoE bears 0.1 in finetuning"
    )


CHAPTER = Chapter(
    title="Selection frequency and load",
    question="Which experts carry the load?",
    introduction=[
        (
            "Every token selects k of a layer's E experts. If all experts were selected equally often, each would get "
            "one E-th of the selections. Training pushes towards that with a load-balancing loss; text pulls away "
            "from it, because some kinds of token are more frequent than others."
        ),
        (
            "The null is uniform routing: every token picks k experts at random. Even then a finite sample is not "
            "perfectly even, so the reference is the value that chance gives for the same number of tokens."
        ),
    ],
    source=("Switch Transformer, Fedus et al. (2022); ST-MoE, Zoph et al. (2022)", "https://arxiv.org/abs/2101.03961"),
    measures=MEASURES,
    interval="bootstrap",
    null="The null of the load is uniform routing: every token picks k of E experts at random, at the same number of "
    "tokens.",
    settings=Chosen,
    thresholds=Thresholds,
    expert_page=("load", "ranks"),
)
