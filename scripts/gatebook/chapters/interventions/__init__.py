"""What does changing one expert do, in a prompt or in a dataset, as a user asks for it?"""

from math import inf
from typing import Annotated

from pydantic import Field, WithJsonSchema

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

EXPERT, MATCHED, CONTROL = "expert", "expert, matched tokens", "control"
"""What is changed: the expert where it is asked for and selected, the same where it has a control, the control."""

MEASURES = {
    "kl": Measure(
        "Divergence at the changed tokens",
        "nats per token",
        "E[Σ p ln(p / q)], p the next-token probabilities before, q after, over the changed tokens",
        "How much the prediction changes at the tokens in which the expert is changed.",
        bounds=(0, inf),
    ),
    "kl_after": Measure(
        "Divergence at later tokens",
        "nats per token",
        "the same over the tokens of a text after its first changed one that are not changed themselves",
        "How much of a change attention carries on.",
        bounds=(0, inf),
    ),
    "added_loss": Measure(
        "Added loss at the changed tokens",
        "nats per token",
        "E[−ln q(next) + ln p(next)] over the changed tokens",
        "How much worse, or better, the next token of the text is predicted.",
    ),
    "excess_kl": Measure(
        "Divergence beyond the control",
        "nats per token",
        "divergence at the matched tokens − that of the control at its tokens",
        "How much more the change does than the same change of other experts with as much weight in the same text.",
    ),
}

ASKED = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "layer"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": "a name for it"},
            "model": {"type": "string", "minLength": 1, "description": "a model of the study"},
            "prompt": {"type": "string", "minLength": 1, "description": "the text that it is about"},
            "dataset": {"type": "string", "minLength": 1, "description": "a dataset of the study"},
            "layer": {"type": "integer", "minimum": 0, "description": "the number of a layer, from 0"},
            "expert": {"type": "integer", "minimum": 0, "description": "the number of an expert, from 0"},
            "stage": {"enum": ["weight", "score", "logit"]},
            "factor": {"type": "number", "minimum": 0, "description": "a number of at least 0"},
            "delta": {"type": "number", "description": "a number, in nats"},
            "at": {
                "anyOf": [{"type": "integer", "minimum": 0}, {"enum": ["last", "all", "generated"]}],
                "type": ["integer", "string"],
                "description": "the place of a token, from 0, or last, all or generated",
            },
            "generate": {"type": "integer", "minimum": 0, "description": "a number of tokens"},
        },
    },
}
"""The schema of `asked`; what its keys mean together is checked by `asked.checked`."""


class Chosen(Settings):
    """What is asked for, and how it is tried."""

    asked: Annotated[list[dict], WithJsonSchema(ASKED)] = Field(
        [],
        description="list of changes: name, layer, and prompt or dataset; expert (by default the one with the most "
        "weight there), stage (weight, score, logit), factor (by default 0) or delta, at (a token's place, last, all, "
        "generated), generate (tokens), model (by default the study's first)",
        json_schema_extra={"wanted": "a list of changes, such as [{name: mine, dataset: python, layer: 1}]"},
    )
    factors: list[Annotated[float, Field(ge=0)]] = Field(
        [0, 0.5, 1, 1.5, 2, 4], min_length=1, description="of the weight, beside the one that is asked for"
    )
    deltas: list[float] = Field(
        [-4, -2, 0, 2, 4, 8], min_length=1, description="added to the logit, beside the one that is asked for"
    )
    documents: int = Field(16, ge=2, description="of a dataset: one of each cluster before a second one")
    length: int = Field(64, ge=2, description="tokens of each, from its first one on")
    caliper: float = Field(
        0.1, gt=0, description="by what share the weights of a matched control may differ in a dataset"
    )
    seed: int = Field(7, ge=0, description="of the documents")


class Thresholds(Settings):
    """Fixed before the run."""

    kl_effect: Borders = borders(0.01, 0.1, "nats per token; a hundredth and a tenth")


CHAPTER = Chapter(
    title="Interventions",
    question="What does changing one expert do where it was asked for?",
    introduction=[
        (
            "The config, or the command make intervene, names an expert, a text and a change: its weight multiplied by "
            "a factor, its score below all others so that the next expert enters, or a number added to its logit. The "
            "change acts in those of the tokens asked for that select the expert."
        ),
        (
            "Any change does something, and a large one does much, whichever expert it is. So every change stands "
            "beside a control: the same change of other experts that are selected in the same text with nearly the "
            "same weight, one token for one token. In a prompt of few tokens the nearest is taken, and both weights "
            "are stated."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="bootstrap",
    also="What is measured on a prompt has none: it is one text.",
    null="The null of a divergence is that of the matched control; their difference is compared with 0.",
    scope="model",
    needs=("tokens", "clusters", "model", "asked"),
    settings=Chosen,
    thresholds=Thresholds,
    first_screen=False,
)
