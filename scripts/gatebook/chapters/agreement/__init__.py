"""Do two runs over the same tokens send them to the same experts, and does the difference matter?"""

from math import inf
from typing import Annotated

from pydantic import Field, WithJsonSchema

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "equal_sets": Measure(
        "Tokens with equal sets",
        "1",
        "share of tokens with S = S′",
        "Of how many tokens both runs select the same experts, in whatever order.",
        bounds=(0, 1),
    ),
    "equal_first": Measure(
        "Tokens with the same first choice",
        "1",
        "share of tokens whose expert with the largest weight is the same",
        "How often the runs agree on the expert that counts most.",
        bounds=(0, 1),
    ),
    "kept_experts": Measure(
        "Experts in both sets",
        "1",
        "mean of |S ∩ S′| / k over tokens",
        "How many of a token's experts are the same.",
        bounds=(0, 1),
    ),
    "agreement": Measure(
        "Agreement",
        "1",
        "(A − A₀) / (1 − A₀), A the mean of |S ∩ S′| / k over tokens, A₀ the same of tokens of different groups",
        "The overlap corrected for what the loads alone would give: 1 for equal routing, 0 for routing by chance.",
        bounds=(-inf, 1),
    ),
    "margin_changed": Measure(
        "Margin of tokens that flip",
        "1",
        "mean of the k-th minus the (k+1)-th largest of what the router of the first run selects by, if S ≠ S′",
        "How close the decision was that fell the other way.",
        bounds=(0, inf),
    ),
    "margin_kept": Measure(
        "Margin of the others",
        "1",
        "the same if S = S′",
        "How close the decisions were that stayed.",
        bounds=(0, inf),
    ),
    "margin_tells": Measure(
        "How well the margin tells what flips",
        "1",
        "P(margin of a token that flips < margin of one that does not), ties by half",
        "1 if only the closest decisions flip, 1/2 if the margin says nothing about it.",
        bounds=(0, 1),
    ),
    "expert_agreement": Measure(
        "Agreement of an expert",
        "1",
        "|Tₑ ∩ T′ₑ| / |Tₑ ∪ T′ₑ|, Tₑ the tokens that select e",
        "Of the tokens that select an expert in either run, how many do so in both.",
        bounds=(0, 1),
    ),
}

RUNS = {
    "type": "array",
    "uniqueItems": True,
    "items": {
        "type": "string",
        "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        "description": "a model, with one of its checkpoints if it is not the studied one, such as demo/step400",
    },
}
ALTERNATIVES = {
    "type": "array",
    "uniqueItems": True,
    "items": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {
            "dtype": {"enum": ["float32", "bfloat16", "float16"]},
            "attention": {"enum": ["sdpa", "eager", "flash_attention_2"]},
            "experts": {"enum": ["eager", "grouped_mm", "batched_mm", "deepgemm", "sonicmoe"]},
        },
        "description": "settings of the model that differ, such as {dtype: bfloat16}",
    },
}


class Chosen(Settings):
    """Which runs are held against each other, on which tokens."""

    runs: Annotated[list, WithJsonSchema(RUNS)] = Field(
        [],
        description="models, at their studied checkpoint or MODEL/CHECKPOINT, over the same tokens: all others are "
        "held against the first one, as is the untrained checkpoint of its model",
        json_schema_extra={"wanted": "a list of runs, such as [vllm, sglang]"},
    )
    alternatives: Annotated[list, WithJsonSchema(ALTERNATIVES)] = Field(
        [],
        description="the first run once more with other settings of its model; only the experts that tokens select are "
        "kept",
        json_schema_extra={"wanted": "a list of settings, such as [{dtype: bfloat16}]"},
    )
    tokens: int = Field(
        1500, ge=10, description="of each dataset at most, whole windows, one of each cluster before a second one"
    )
    seed: int = Field(6, ge=0, description="of these")
    draws: int = Field(300, ge=100, description="resamples and permutations of the findings that are made anew")


class Thresholds(Settings):
    """Fixed before the run."""

    equal: float = Field(0.95, gt=0, lt=1, description="agreement above which two runs route alike")
    false_discovery_rate: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="at which an expert counts as stable or sensitive; all layers and experts of a run",
    )
    agreement_effect: Borders = borders(0.05, 0.2, "share of a token's experts; a twentieth and a fifth of them")
    margin_effect: Borders = borders(0.06, 0.14, "probability beyond 1/2; Cohen's d of 0.2 and 0.5 between normals")
    findings_effect: Borders = borders(
        0.01, 0.34, "share of the findings that do not survive, or of the numbers that move; any, and a third of them"
    )


CHAPTER = Chapter(
    title="Agreement",
    question="Do two runs over the same tokens route them alike, and which findings does the difference touch?",
    introduction=[
        (
            "A run is a model that computes in one way: an engine, a precision, a kernel, a quantisation, a "
            "checkpoint. Runs are held against the first one, token by token, in layers with the same number, which "
            "must have the same experts. Rounding alone makes some tokens go to other experts, because the last expert "
            "that is selected and the first that is not are often nearly equal."
        ),
        (
            "Overlaps are corrected for what loads alone give, as in the chapter on reach, whose measure it is. What "
            "flips is told by the boundary margin in the first run. An expert is stable or sensitive if it keeps more "
            "or fewer of its tokens than the average expert of its layer, and the correlation of two halves of the "
            "sources says how much of that is more than noise."
        ),
        (
            "A difference of routing matters if it changes an answer. The findings on load, domains and pairs of "
            "experts are made anew from the selections of each run on the same tokens, and a finding survives if its "
            "verdict is the same. Windows are cut from documents here, so a number may differ from that of its chapter."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="jackknife",
    also="Of findings that are made anew intervals are those of their chapters, and those of differences are paired.",
    null="The null of an overlap is what two tokens of different groups of clusters share, and is subtracted: 0. That "
    "of equal sets is held beside it: tokens paired at random.",
    reads="tokens",
    scope="runs",
    needs=("documents", "tokens", "selections"),
    settings=Chosen,
    thresholds=Thresholds,
)
