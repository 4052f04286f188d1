"""Changes that a user asks for, checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatebook.problem import Problem

STAGES = ("weight", "score", "logit")


@dataclass(frozen=True)
class Asked:
    """One change: to which expert of which layer, where, and how much.

    prompt or dataset: on what, the other one is ""; expert: its number, None for the one with the most weight there;
    at: the place of a token, or "last", "all" or "generated"; dose: the factor of the stage "weight", what is added in
    the stage "logit", 0 in the stage "score"; generate: how many tokens are written after a prompt.
    """

    name: str
    layer: int
    expert: int | None = None
    prompt: str = ""
    dataset: str = ""
    stage: str = "weight"
    dose: float = 0.0
    at: int | str = "last"
    generate: int = 0

    @property
    def where(self) -> str:
        """On what, in words."""
        return self.dataset or {"generated": "generated tokens", "all": "all tokens", "last": "the last token"}.get(
            str(self.at), f"token {self.at}"
        )


def checked(entry: Mapping, place: str) -> Asked:
    """A change as the config or the command line has it, of which each key is right; `place` says where it stands.

    Raises a `Problem` for keys that do not go together.
    """

    def wrong(reason: str) -> Problem:
        return Problem(f"{place}: {reason}")

    if bool(entry.get("prompt")) == bool(entry.get("dataset")):
        raise wrong("it needs a prompt or a dataset, and not both: write one of them.")
    on_dataset = bool(entry.get("dataset"))
    stage = entry.get("stage", "logit" if "delta" in entry else "weight")
    if "delta" in entry and stage != "logit":
        raise wrong(f"delta does not go with the stage {stage}: remove one of them.")
    if "factor" in entry and stage != "weight":
        raise wrong(f"factor does not go with the stage {stage}: remove one of them.")
    if stage == "logit" and "delta" not in entry:
        raise wrong("the stage logit needs a delta: add it.")
    dose = float(entry.get("delta" if stage == "logit" else "factor", 0))
    if not math.isfinite(dose):
        raise wrong(f"{dose} is not allowed: write a finite number.")
    at, generate = entry.get("at", "all" if on_dataset else "last"), int(entry.get("generate", 0))
    if on_dataset and (at != "all" or generate):
        raise wrong("a dataset is changed at all its tokens, and nothing is generated: remove at and generate.")
    if at == "generated" and not generate:
        raise wrong("at: generated needs generate, the number of tokens: add it.")
    text = {"prompt": entry.get("prompt", ""), "dataset": entry.get("dataset", "")}
    return Asked(
        entry["name"], entry["layer"], entry.get("expert"), **text, stage=stage, dose=dose, at=at, generate=generate
    )


def of_model(
    entries: Sequence[Mapping], model: str, *, models: Sequence[str], datasets: Sequence[str], catalogue: Sequence[str]
) -> list[Asked]:
    """What the config asks of one model.

    Parameters
    ----------
    entries
        `interventions.asked`.
    model
        Which one.
    models, datasets
        Those of the study. What is asked of others that the config knows is left out, as the study leaves them out.
    catalogue
        The datasets that the config knows.

    Returns
    -------
    list[Asked]

    Raises
    ------
    Problem
        For a name that occurs twice, an unknown dataset, and keys that do not go together.
    """
    found = []
    for index, entry in enumerate(entries):
        if entry.get("model", models[0]) != model:
            continue
        place = f"config: interventions.asked.{index}"
        made = checked(entry, place)
        if made.dataset and made.dataset not in datasets:
            if made.dataset in catalogue:
                continue
            raise Problem(f"{place}.dataset: {made.dataset!r} is not in the study: use one of {', '.join(datasets)}.")
        if any(made.name == other.name for other in found):
            raise Problem(f"{place}.name: {made.name!r} occurs twice: give it another name.")
        found.append(made)
    return found
