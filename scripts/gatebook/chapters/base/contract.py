"""The declaration of a chapter: what the workflow, the configuration, the report and the tests must know about it.

Nothing heavy is imported here or in a chapter's `__init__`: every job on a cluster reads the declarations.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from pydantic import BaseModel, ConfigDict

from gatebook.capabilities import CAPABILITIES

SCOPES = ("checkpoint", "model", "runs")


class Settings(BaseModel):
    """Keys of a chapter's section in the config, as fields with default, bounds and description."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Measure:
    """A number that a chapter reports.

    title, units, formula, meaning: as the report's Methods show them; units "1" for none. bounds: the values that it
    can take, to which intervals are cut. null: its value if there is nothing to find, where that is one number for all
    models. squared: a measure of spread, 0 for even loads, which noise raises in proportion to its size; its interval
    is moved on squares (see `uncertainty.interval`).
    """

    title: str
    units: str
    formula: str
    meaning: str
    bounds: tuple[float, float] = (-inf, inf)
    null: float | None = None
    squared: bool = False


@dataclass(frozen=True)
class Chapter:
    """One question about routing.

    title, question, introduction (paragraphs), source (text, address or None): words of its page. measures: by name.
    scope: what its metrics are about, one "checkpoint", all checkpoints of a "model", or several "runs"; it decides
    their paths. needs: capabilities without which a model's report lacks the chapter (`CAPABILITIES`). chapters: those
    whose metrics it reads. settings, thresholds: what the config may say; thresholds, fixed before the run, are read by
    findings alone. interval: how its intervals are made. null: what it is held against, for Methods. without_text:
    the same where there are no documents, if the chapter does without. expert_page: the parts of an expert's profile
    that come from its metrics. first_screen: whether its findings stand on the report's first page.
    """

    title: str
    question: str
    introduction: list[str]
    source: tuple[str, str | None]
    measures: dict[str, Measure]
    interval: Literal["bootstrap", "jackknife"]
    null: str = ""
    scope: Literal["checkpoint", "model", "runs"] = "checkpoint"
    needs: tuple[str, ...] = ()
    chapters: tuple[str, ...] = ()
    settings: type[Settings] = Settings
    thresholds: type[Settings] = Settings
    expert_page: tuple[str, ...] = ()
    first_screen: bool = True
    notes: tuple[str, ...] = field(default=())

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
