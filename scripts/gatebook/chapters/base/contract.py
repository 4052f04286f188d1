"""The declaration of a chapter: what the workflow, the configuration, the report and the tests must know about it.

Nothing heavy is imported here or in a chapter's `__init__`: every job on a cluster reads the declarations.
"""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gatebook.capabilities import CAPABILITIES

SCOPES = ("checkpoint", "model", "runs")


class Settings(BaseModel):
    """Keys of a chapter's section in the config, as fields with default, bounds and description."""

    model_config = ConfigDict(extra="forbid")


Borders = list[Annotated[float, Field(ge=0)]]
"""Of the class of an effect: from the first on it is small and no longer negligible, from the second on large."""


def borders(small: float, large: float, description: str):
    """A threshold: the `Borders` of an effect. The description says of what, in which unit, and why they are these."""
    return Field([small, large], min_length=2, max_length=2, description=f"effect small, large: {description}")


@dataclass(frozen=True)
class Measure:
    """A number that a chapter reports.

    title, units, formula, meaning: as the report's Methods show them; units "1" for none. bounds: the values that it
    can take, to which intervals are cut. null: its value if there is nothing to find, where that is one number for all
    models. bias: how sampling noise moves it, for which estimate and interval are corrected: "" not at all on average,
    "level" by about the same amount whatever its size is, "square" its square by about the same amount, as for measures
    of spread, 0 for even loads (see `uncertainty.interval`).
    """

    title: str
    units: str
    formula: str
    meaning: str
    bounds: tuple[float, float] = (-inf, inf)
    null: float | None = None
    bias: Literal["", "level", "square"] = ""


@dataclass(frozen=True)
class Chapter:
    """One question about routing.

    Parameters
    ----------
    title, question, introduction, source
        Words of its page: paragraphs of the introduction; text and address (or None) of the source.
    measures
        What it reports, by name.
    interval, also, null
        How its intervals are made; in words how those of some of its measures are; what it is held against, in a
        sentence for Methods.
    reads
        What its measures are computed from: "tallies", the "tokens" and what layers did to them, the "sample" of tokens
        whose router inputs are kept and the model, or the record of the "training".
    scope
        What its metrics are about, which decides their paths: one "checkpoint", all of a "model", or "runs".
    needs
        Capabilities without which a model's report lacks the chapter (`CAPABILITIES`).
    chapters, beside
        Those whose metrics it reads; and those of the same model whose metrics it reads where they are in the report.
    settings, thresholds
        What the config may say. Thresholds, fixed before the run, are read by findings alone.
    expert_page
        Parts of an expert's profile that come from its metrics.
    first_screen
        Whether its findings stand on the report's first page.
    """

    title: str
    question: str
    introduction: list[str]
    source: tuple[str, str | None]
    measures: dict[str, Measure]
    interval: Literal["bootstrap", "jackknife"]
    also: str = ""
    null: str = ""
    reads: Literal["tallies", "tokens", "sample", "training"] = "tallies"
    scope: Literal["checkpoint", "model", "runs"] = "checkpoint"
    needs: tuple[str, ...] = ()
    chapters: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    settings: type[Settings] = Settings
    thresholds: type[Settings] = Settings
    expert_page: tuple[str, ...] = ()
    first_screen: bool = True

    def __post_init__(self):
        if unknown := set(self.needs) - set(CAPABILITIES):
            raise ValueError(f"{self.title} needs {', '.join(sorted(unknown))}, which is no capability")
        if self.scope not in SCOPES:
            raise ValueError(f"{self.title} has the scope {self.scope!r}: use one of {', '.join(SCOPES)}")

    def schema(self) -> dict:
        """JSON schema of its section in the config: its settings, and `thresholds` if it has any."""
        section = _schema(self.settings)
        if self.thresholds.model_fields:
            section["properties"]["thresholds"] = _schema(self.thresholds)
        return section


def _schema(settings: type[Settings]) -> dict:
    """The schema of settings, which may be left out one by one; what pydantic calls description is a `title` here.

    In the config's schema a description is the end of an error sentence, "write ...": here what a field calls `wanted`.
    """
    made = settings.model_json_schema()
    properties = {}
    for name, part in made.get("properties", {}).items():
        meaning = part.pop("description", None)
        wanted = part.pop("wanted", None)
        properties[name] = part | {"title": meaning} | ({"description": wanted} if wanted else {})
    return {"type": "object", "default": {}, "additionalProperties": False, "properties": properties}
