"""Which experts work together, and is that more than their loads explain?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

FEWEST = 10
"""Expected tokens below which a pair is not tested."""

MEASURES = {
    "mean_absolute_log2_lift": Measure(
        "Mean |log₂ lift| of pairs",
        "1",
        "mean over i < j of |log₂((N_ij + ½) / (E_ij + ½))|",
        (
            "How far the pairs of a layer are from what their loads explain, in doublings; 0 if loads explain "
            f"everything. Pairs expected in fewer than {FEWEST} tokens are left out."
        ),
        bounds=(0, inf),
    ),
    "remaining_within_datasets": Measure(
        "Variance of log lift remaining within datasets",
        "1",
        "Σ log₂²((N_ij + ½) / (E'_ij + ½)) / Σ log₂²((N_ij + ½) / (E_ij + ½)), E'_ij = Σ_D E_ij(D)",
        (
            "How much of the variance of log lift, around a lift of 1, is left when the null also knows how the loads "
            "differ between datasets; sampling noise counts as left. 1 for a single dataset."
        ),
        bounds=(0, inf),
    ),
    "significant_lift": Measure(
        "Mean |log₂ lift| of significant pairs",
        "1",
        "mean of |log₂((N_ij + ½) / (E_ij + ½))| over pairs with adjusted p ≤ α",
        (
            "How far the pairs are from what loads explain that significantly differ from it. Of pairs chosen for "
            "being far they look somewhat further than they are; undefined where there are none."
        ),
        bounds=(0, inf),
    ),
    "share_above": Measure(
        "Pairs above chance",
        "1",
        "share with adjusted p ≤ α and lift > 1",
        (
            "Share of the pairs that are selected together significantly more often than loads explain; false "
            "discovery rate over all layers and pairs: 1 minus the confidence of the intervals."
        ),
        bounds=(0, 1),
    ),
    "share_below": Measure(
        "Pairs below chance",
        "1",
        "share with adjusted p ≤ α and lift < 1",
        "Share of the pairs that are selected together significantly less often than loads explain.",
        bounds=(0, 1),
    ),
}


class Thresholds(Settings):
    """Fixed before the run."""

    strong_lift: float = Field(2, gt=1, description="lift above which a pair of experts works together strongly")
    remaining_lift: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the squared log2 lift within datasets that domains may not explain",
    )
    lift_effect: Borders = borders(
        0.14, 0.58, "doublings beyond noise; a lift of 1.1 or 1 / 1.1, and of 1.5 or 1 / 1.5"
    )
    explained_effect: Borders = borders(
        0.01, 0.09, "share of the squared log2 lift that datasets explain; Cohen (1988), r of 0.1 and 0.3, squared"
    )


CHAPTER = Chapter(
    title="Co-activation",
    question="Which experts work together, and is that more than their loads explain?",
    introduction=[
        (
            "Every token selects k different experts of a layer. Some pairs are selected together often, others "
            "hardly ever. Two busy experts meet often by chance, so the number of meetings alone says little: lift is "
            "the number of tokens that select both, divided by the number expected from the loads."
        ),
        (
            "The null keeps how often each expert is selected and that every token selects exactly k different ones; "
            "beyond that, chance decides. It is not the product of the two loads: because a token cannot select an "
            "expert twice, that product expects too many meetings, and uniform routing of 8 among 64 experts would "
            "seem to have a lift of 0.89."
        ),
        (
            "A lift other than 1 has several causes: the two experts respond to similar tokens, they serve the same "
            "kind of text, or their router rows are alike, as some are by chance before any training. It does not say "
            "that one expert needs the other."
        ),
    ],
    source=(
        "OLMoE, Muennighoff et al. (2024), Eq. 6; Chen, Dempster and Liu (1994)",
        "https://arxiv.org/abs/2409.02060",
    ),
    measures=MEASURES,
    interval="jackknife",
    null="The null of co-activation draws for every token k different experts such that each expert is selected as "
    "often as observed and chance decides the rest.",
    needs=("selections",),
    thresholds=Thresholds,
    expert_page=("partners",),
)
