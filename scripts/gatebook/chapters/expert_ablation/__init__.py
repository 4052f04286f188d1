"""What happens when an expert is removed?"""

from typing import Literal

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

ITSELF = "the change itself"
PREDICTORS = {
    "selected_tokens": "load",
    "weight_sum": "weight mass",
    "contribution_norm": "norm of contribution",
    "direct_logit": "direct logit attribution",
    "gradient": "gradient times contribution",
    "loss_change": ITSELF,
}
"""What may tell how much the loss changes: the name in a scan, and in the metrics."""

MEASURES = {
    "loss_change": Measure(
        "Change of loss without an expert",
        "nats",
        "Σₜ (L′ₜ − Lₜ) / T, L′ the loss of a run in which the expert is removed in its layer",
        "By how much the loss of a token rises, on average over all tokens, if one expert is absent.",
    ),
    "mean_loss_change": Measure(
        "Change of loss without an expert, mean over experts",
        "nats",
        "the mean of the same over the experts of a layer",
        "By how much the loss rises if any one expert is absent.",
    ),
    "direct_share": Measure(
        "Share of the change at the expert's own tokens",
        "1",
        "the sum over experts of the change of loss at tokens that select the expert, by that of all changes",
        "The rest reaches other tokens through attention. In the last layer there is no attention, and it is 1.",
    ),
    "use_correlation": Measure(
        "Correlation of use and change of loss",
        "1",
        "cov / √(var var) of an expert's share of a dataset's tokens and its change of loss there, without their noise",
        (
            "1 if removing an expert hurts most where it is used most, 0 if it does not matter where it is used. All "
            "experts of a layer together, each less its mean over datasets. Variances and covariance are less what "
            "differences between documents of one dataset add to them, which would make the correlation too small."
        ),
        bounds=(-1, 1),
        null=0,
    ),
    "prediction": Measure(
        "Rank correlation of a predictor and the change of loss",
        "1",
        "Spearman's ρ over experts, the predictor of one half of the clusters and the change of loss of the other",
        (
            "How well the order of a layer's experts by a number tells their order by what removing them does, on "
            "other texts. That of the change itself is its reliability, which no predictor exceeds by much."
        ),
        bounds=(-1, 1),
        null=0,
    ),
    "prediction_beyond": Measure(
        "The same less the reliability",
        "1",
        "the rank correlation of a predictor less that of the change of loss itself",
        "0 for a predictor that says as much of an expert as a measurement of the change on other texts.",
    ),
    "picked_change": Measure(
        "Change of loss without the picked expert",
        "nats",
        "the change of loss of tested documents if the weights of all of its slots are 0",
        (
            "A slot is a token's choice of one expert. The expert is that whose removal changes the loss most in other "
            "documents, of a dataset or, pooled, of all of them."
        ),
    ),
    "matched_change": Measure(
        "Change of loss without matched slots of the picked expert",
        "nats",
        "the same of those of its slots for which there is a slot of another expert with nearly the same weight",
        "What the control is held against.",
    ),
    "control_change": Measure(
        "Change of loss without matched slots of other experts",
        "nats",
        "the same of as many slots of other experts of the layer, in the same texts and with nearly the same weights",
        "What is lost with any expert that has the load and the weights of this one.",
    ),
    "excess": Measure(
        "Change of loss beyond load and weight",
        "nats",
        "that without matched slots of the expert less that without matched slots of other experts",
        "0 if it is no matter which expert it is.",
        null=0,
    ),
}


class Chosen(Settings):
    """What is removed, in which documents."""

    stage: Literal["score", "weight"] = Field(
        "score",
        description="`score`: the next expert enters in its place, with the weight of its own score; `weight`: its "
        "weight is 0 and none enters",
    )
    clusters: int = Field(
        12,
        ge=2,
        description="of each dataset, one document each, in which every expert is removed; from half of all on",
    )
    tested_clusters: int = Field(
        12, ge=2, description="others, in which the experts that matter most are held against other slots"
    )
    untrained_clusters: int = Field(3, ge=2, description="of both kinds, at the untrained checkpoint")
    caliper: float = Field(0.1, gt=0, lt=1, description="by which share the weights of matched slots may differ")
    splits: int = Field(50, ge=2, description="of clusters into halves, for predictions")
    permutations: int = Field(200, ge=20, description="of clusters over datasets, for the null of the correlation")
    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="at which a change or an excess counts")
    seed: int = Field(7, ge=0, description="of the documents, the splits and the permutations")


class Thresholds(Settings):
    """Fixed before the run."""

    indispensable: float = Field(0.1, gt=0, description="change of loss in nats above which an expert is indispensable")
    loss_effect: Borders = borders(0.01, 0.1, "nats per token; a change of perplexity by about 1 % and 10 %")
    correlation_effect: Borders = borders(0.1, 0.5, "Cohen's (1988) r for small and large")


CHAPTER = Chapter(
    title="Expert ablation",
    question="What happens when an expert is removed?",
    introduction=[
        (
            "Which experts a token is sent to says nothing of what they do there. So every expert of every layer is "
            "removed in turn, and the model runs again: by how much does the loss of the next token rise? Where does "
            "it, and could that be known without removing anything?"
        ),
        (
            "An expert that is used much, with large weights, takes more with it than another one whatever it "
            "computes. The control removes as many slots (choices of an expert by a token) of other experts of the "
            "layer, whose weights are nearly the same, in the same texts. Slots without a partner are left out on both "
            "sides. The experts that are held against it are picked in some documents and tested in others: those that "
            "seem to matter most in a few documents owe a part of that to chance."
        ),
        (
            "A layer of the model can only be seen whole. What another expert would have learnt in the place of one "
            "that was absent in training is another question."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="jackknife",
    null=(
        "The null of the correlation with use permutes the changes of loss of clusters over datasets, and leaves their "
        "use; that of what lies beyond load and weight is 0."
    ),
    reads="tokens",
    needs=("tokens", "clusters", "model"),
    settings=Chosen,
    thresholds=Thresholds,
    expert_page=("ablation",),
)
