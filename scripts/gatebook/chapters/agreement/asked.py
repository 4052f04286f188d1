"""Which runs are held against each other, checked."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from gatebook.problem import Problem


class Asked(NamedTuple):
    """What is compared; all is empty where nothing is.

    runs: {model, checkpoint}, the first one against all others; alternatives: of the first one, settings by name;
    untrained: the names of the runs that are the untrained checkpoints of their models.
    """

    runs: list[dict[str, str]]
    alternatives: dict[str, dict[str, str]]
    untrained: list[str]

    @property
    def names(self) -> list[str]:
        """What the runs are called, the first one first."""
        return [*map(name_of_run, self.runs), *map(words_of, self.alternatives.values())]


NOTHING = Asked([], {}, [])


def name_of_run(run: Mapping[str, str]) -> str:
    """MODEL/CHECKPOINT."""
    return f"{run['model']}/{run['checkpoint']}"


def name_of(settings: Mapping[str, str]) -> str:
    """What an alternative with these settings is called in paths: "dtype-bfloat16"."""
    return ".".join(f"{key}-{settings[key]}" for key in sorted(settings))


def words_of(settings: Mapping[str, str]) -> str:
    """What an alternative with these settings is called: "dtype bfloat16"."""
    return ", ".join(f"{key} {settings[key]}" for key in sorted(settings))


def of_study(
    settings: Mapping, models: Mapping[str, Mapping], catalogue: Collection[str], lacks: Mapping[str, Mapping[str, str]]
) -> Asked:
    """The runs and alternatives of the section `agreement` of the config.

    Parameters
    ----------
    settings
        The section.
    models
        Those of the study, by name.
    catalogue
        The models that the config knows. If the first run is of another one than the study's, nothing is compared.
    lacks
        By model of the study, the capabilities that it lacks, each with the reason.

    Returns
    -------
    Asked
        With the untrained checkpoint of the first run's model as the last run, if it is not among them.

    Raises
    ------
    Problem
        For a run that the study does not have, or a single one; and for alternatives of no run, or of one that cannot
        be run again.
    """
    if not settings["runs"]:
        if settings["alternatives"]:
            raise Problem(
                "config: agreement.runs: it is empty, but there are alternatives: write the run that they are of."
            )
        return NOTHING
    if (first := settings["runs"][0].partition("/")[0]) not in models and first in catalogue:
        return NOTHING
    runs = [_run(name, models, lacks) for name in settings["runs"]]
    if twice := [run for index, run in enumerate(runs) if run in runs[:index]]:
        raise Problem(f"config: agreement.runs: {name_of_run(twice[0])} occurs twice: remove one.")
    alternatives = {name_of(each): dict(each) for each in settings["alternatives"]}
    if alternatives and "model" in lacks[first]:
        raise Problem(
            f"config: agreement.alternatives: {first} cannot be run again ({lacks[first]['model']}): write [], or "
            "another run first."
        )
    if len(runs) + len(alternatives) == 1:
        raise Problem(f"config: agreement.runs: {settings['runs'][0]} is a single run: add another one, or write [].")
    untrained = [
        {"model": name, "checkpoint": each["untrained"]} for name, each in models.items() if "untrained" in each
    ]
    runs += [run for run in untrained if run["model"] == first and run not in runs]
    return Asked(runs, alternatives, [name_of_run(run) for run in runs if run in untrained])


def _run(name: str, models: Mapping[str, Mapping], lacks: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """{model, checkpoint} of MODEL, at its studied checkpoint, or of MODEL/CHECKPOINT."""
    model, _, checkpoint = name.partition("/")
    if model not in models:
        raise Problem(
            f"config: agreement.runs: {name}: the study has no model {model!r}: use one of {', '.join(models)}, or add "
            "it to study.models."
        )
    checkpoints = models[model]["checkpoints"]
    if checkpoint and checkpoint not in checkpoints:
        raise Problem(
            f"config: agreement.runs: {name}: {checkpoint!r} is not among the model's checkpoints: use one of "
            f"{', '.join(checkpoints)}, or add it to models.{model}.checkpoints."
        )
    if "selections" in lacks[model]:
        raise Problem(f"config: agreement.runs: {name}: {lacks[model]['selections']}: remove it.")
    return {"model": model, "checkpoint": checkpoint or checkpoints[-1]}
