"""Can routing be steered?"""

from typing import Annotated

from pydantic import Field, WithJsonSchema

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

WORDS = {"residual": "residual stream", "input": "router input", "logits": "router logits"}
"""What vectors are added to, in words."""
RATIO = "E[ln p₁(w) − ln p₂(w)] over the tokens w, p₁ of the dataset steered toward, p₂ of the other, both add-one"
MEASURES = {
    "log_ratio": Measure(
        "Log-likelihood ratio of steered text",
        "nats per token",
        f"{RATIO} that are written with dose × vector added",
        "How much more the written tokens are those of the dataset that is steered toward than of the other; at dose "
        "0 what the model writes of itself.",
    ),
    "target_ratio": Measure(
        "Log-likelihood ratio of real text of the dataset steered toward",
        "nats per token",
        f"{RATIO} of real texts, each without the tokens of its own cluster in p",
        "What steered text would have if it were real; beyond it steering overshoots.",
    ),
    "source_ratio": Measure(
        "Log-likelihood ratio of real text of the other dataset",
        "nats per token",
        "the same of real texts of the other dataset",
        "What text has that is to be steered away from.",
    ),
    "random_ratio": Measure(
        "Log-likelihood ratio with random vectors",
        "nats per token",
        f"{RATIO} that are written with random vectors of the same length added, mean over vectors",
        "What any vector of this length does.",
    ),
    "excess": Measure(
        "Log-likelihood ratio beyond random vectors",
        "nats per token",
        "steered − mean of the random vectors, same prompts and same random numbers",
        "What is due to the direction of the vector.",
        null=0,
    ),
    "covered": Measure(
        "Share of the way to real text",
        "1",
        "(steered − unsteered) / (real text − unsteered)",
        "1 where steered text has the log-likelihood ratio of real text, above 1 where it overshoots.",
    ),
    "target_price": Measure(
        "Added loss on the dataset steered toward",
        "nats per token",
        "E[−ln q(next) + ln p(next)] over held-out texts, q with dose × vector added to all tokens",
        "What steering costs where its text should be at home; below 0 if it helps.",
    ),
    "source_price": Measure(
        "Added loss on the other dataset",
        "nats per token",
        "the same on held-out texts of the other dataset",
        "What steering costs elsewhere.",
    ),
    "random_target_price": Measure(
        "Added loss on the dataset steered toward, random vectors",
        "nats per token",
        "the same with random vectors of the same length, mean over vectors",
        "What any vector of this length costs.",
    ),
    "random_source_price": Measure(
        "Added loss on the other dataset, random vectors",
        "nats per token",
        "the same on the other dataset",
        "What any vector of this length costs there.",
    ),
    "moved": Measure(
        "Slots that get another expert",
        "1",
        "share of the selected experts that are not selected without the vector, held-out texts of both, all layers",
        "How much steering moves routing, whatever it does to text.",
        bounds=(0, 1),
    ),
    "random_moved": Measure(
        "Slots that get another expert, random vectors",
        "1",
        "the same with random vectors of the same length, mean over vectors",
        "How much any vector of this length moves routing.",
        bounds=(0, 1),
    ),
}

PAIRS = {
    "type": "array",
    "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string", "minLength": 1}},
}


class Chosen(Settings):
    """Which datasets are contrasted, and how."""

    pairs: Annotated[list, WithJsonSchema(PAIRS)] = Field(
        [],
        description="of datasets: the one that is steered toward, and the one that is steered away from",
        json_schema_extra={"wanted": "a list of pairs of datasets, such as [[python, cpp]]"},
    )
    doses: list[Annotated[float, Field(gt=0)]] = Field(
        [1, 2, 4], min_length=1, description="factors of the vector, increasing"
    )
    compared_dose: float = Field(
        2, gt=0, description="one of the doses, at which the layer is chosen and random vectors are tried"
    )
    random: int = Field(19, ge=2, description="random vectors of the same length")
    priced: int = Field(4, ge=1, description="of the random vectors, whose price is measured")
    documents: int = Field(
        24,
        ge=1,
        description="of each dataset that make the vector, and at most as many others "
        "on which it is priced; one of each cluster before a second one",
    )
    length: int = Field(64, ge=2, description="tokens of each, from its first one on")
    prompts: int = Field(
        24, ge=2, description="neutral beginnings of documents, of the study's other datasets if it has any"
    )
    choosing: int = Field(12, ge=1, description="other prompts, by which the layer is chosen")
    prompt: int = Field(16, ge=1, description="tokens of a prompt; as many first ones of a document make no vector")
    tokens: int = Field(20, ge=2, description="written after each prompt")
    seed: int = Field(7, ge=0, description="of documents, random vectors and random numbers")


class Thresholds(Settings):
    """Fixed before the run."""

    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="of the contrasts of all pairs and kinds")
    ratio_effect: Borders = borders(
        0.25, 1, "nats of log-likelihood ratio per token; a fourth more or e times as likely"
    )
    price_effect: Borders = borders(
        0.05, 0.5, "nats per token; a twentieth, and a half of a token's loss in perplexity"
    )


CHAPTER = Chapter(
    title="Steering",
    question="Can routing be steered?",
    introduction=[
        (
            "The difference of what a model holds in texts of two datasets is a vector. Added while the model writes, "
            "it may steer what is written toward the first dataset. It is taken from, and added to, the residual "
            "stream after a layer, what a layer's router and experts receive, or its router logits. Vectors are made "
            "of one half of the clusters of documents; the layer, or all layers at once, is the one that steers best "
            "on some neutral prompts, and what is shown is of other prompts."
        ),
        (
            "Any vector changes what is written. So each stands beside random vectors of the same length, permutations "
            "of itself for router logits, and beside real text of both datasets. The residual stream is the positive "
            "control: only if that steers, these prompts could have shown that router logits do. And a model that is "
            "pushed far enough writes words of a dataset without sense: the price, which is the loss that the vector "
            "adds on held-out texts, always belongs to it."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="bootstrap",
    also="Clusters of prompts are resampled for what is written, those of held-out texts for prices and real text; "
    "vectors, unigram models and layers are taken as given.",
    null="The null of a steered text is the mean of random vectors after the same prompts, with the band in which one "
    "more random vector would lie (Student's t of the random vectors); p values of this band are corrected by "
    "Benjamini and Hochberg for all pairs and kinds.",
    scope="model",
    needs=("tokens", "clusters", "model", "contrast"),
    settings=Chosen,
    thresholds=Thresholds,
)
