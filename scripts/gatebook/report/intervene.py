"""One change of one expert, by hand: python -m gatebook.report.intervene --prompt "..." --layer 1

It does to a prompt, or to a dataset of the study, what `interventions.asked` in the config does, with the same code,
and writes a page, figures and numbers into a folder of their own below `prompts/`. The study stays as it is.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatebook.chapters.base.page import Figure, Seen
from gatebook.chapters.interventions import CHAPTER, MEASURES, asked, measure, page, trial
from gatebook.chapters.interventions.asked import Asked
from gatebook.figures import export
from gatebook.figures.words import format_number
from gatebook.files import atomic
from gatebook.inputs.documents import load_tokens
from gatebook.problem import Problem
from gatebook.report import by_hand

PROGRAM = "python -m gatebook.report.intervene"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Change one expert in a prompt, or in a dataset of the study, beside a matched control.",
        epilog=f'Example: {PROGRAM} --prompt "2 + 2 =" --layer 1 --expert 9 --token 4 --factor 0 --generate 20',
    )
    text = whole.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", help="the text")
    text.add_argument("--dataset", help="a dataset of the study, all tokens of some of its documents")
    whole.add_argument("--layer", type=int, required=True, help="number of the layer, from 0")
    whole.add_argument(
        "--expert", type=int, help="number of the expert, from 0 (default: the one with most weight there)"
    )
    whole.add_argument(
        "--token",
        metavar="PLACE",
        help="which token of the prompt, from 0, or last, all, or generated (default: last); the page numbers them",
    )
    whole.add_argument("--factor", type=float, help="what its weight is multiplied by (default: 0)")
    whole.add_argument("--delta", type=float, help="what is added to its router logit, in place of a factor")
    whole.add_argument("--stage", choices=asked.STAGES, help="score: removed, so that the next expert enters")
    whole.add_argument(
        "--generate", type=int, default=0, metavar="N", help="write N tokens, with and without the change"
    )
    whole.add_argument("--model", help="a model of the study (default: its first), at the checkpoint that is studied")
    whole.add_argument("--directory", default=".", help="the folder of the study (default: this one)")
    whole.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="overlays of the config")
    return whole


def entry(given: Mapping) -> dict:
    """What was given as `interventions.asked` has it; a `Problem` for a number that cannot be right."""
    made = {key: given[key] for key in ("layer", "expert", "prompt", "dataset", "factor", "delta", "stage", "generate")}
    if given["token"] is not None:
        place = given["token"]
        if place not in ("last", "all", "generated") and not place.isdecimal():
            raise Problem(
                f"--token {place} is not allowed: write the place of a token, from 0, or last, all, generated."
            )
        made["at"] = int(place) if place.isdecimal() else place
    for key in ("layer", "expert", "generate", "factor"):
        if made[key] is not None and not made[key] >= 0:
            raise Problem(f"--{key} {made[key]} is not allowed: write a number of at least 0.")
    return {key: value for key, value in made.items() if value is not None} | {"name": "the change"}


def run(given: Mapping) -> Path:
    """Do what was given, in the folder of the study, and return the folder that was written; or raise a `Problem`."""
    one = asked.checked(entry(given), "intervene")
    of_study = by_hand.opened(given, {"--dataset": one.dataset} if one.dataset else {})
    config, settings = of_study.config, of_study.config["interventions"]
    made, of, told = trial.tried(
        of_study.model,
        of_study.tokenizer,
        one,
        lambda dataset: load_tokens(of_study.tokens[dataset]),
        settings=settings,
        tokens_per_batch=of_study.batch(settings["length"]),
        place="intervene",
    )
    statistics = {key: config["statistics"][key] for key in ("resamples", "seed", "confidence", "fewest_clusters")}
    metrics = measure.measure([(one, made, of)], **statistics)
    metrics = metrics.assign_attrs(told=json.dumps([told], ensure_ascii=False))
    seen = Seen(metrics, thresholds=settings["thresholds"])
    target = by_hand.PROMPTS / _name(of_study.name, of_study.checkpoint, one, made.expert, given)
    telling = {key: value for key, value in given.items() if key != "generate" or value}
    write(target, one, told, seen, of_study.label, by_hand.command(PROGRAM, telling))
    return target


def _name(model: str, checkpoint: str, one: Asked, expert: int, given: Mapping) -> str:
    """The name of a folder, which says what was changed and is another one for every prompt and dose."""
    content = json.dumps({**entry(given), "expert": expert}, sort_keys=True).encode()
    place = one.dataset or f"token_{one.at}"
    return f"{model}_{checkpoint}_layer_{one.layer}_expert_{expert}_{place}_{hashlib.sha256(content).hexdigest()[:8]}"


def write(target: Path, one: Asked, told: dict, seen: Seen, of: str, command: str) -> None:
    """Write the page, its figures and the numbers, whole or not at all.

    Parameters
    ----------
    target
        The folder.
    one, told
        What was asked for, and what came out in words (`trial.tried`).
    seen
        The metrics.
    of, command
        The model in words, and the command that gives the same.
    """
    figures = [figure for figure in page.figures(seen) if figure.name != "sizes"]  # the page has it as a table
    table = measure.table(seen.metrics)
    with atomic.atomic_directory(target) as partial:
        for figure in figures:
            about = {"title": figure.title, "description": figure.alt, "source": f"Gatebook; {of}; {command}"}
            export.save(figure.drawing, partial, figure.name, figure.data, **about)
        numbers = json.loads(table.to_json(orient="records"))
        content = {"model": of, "command": command, **told, "measures": numbers}
        (partial / "intervention.json").write_text(
            json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
        (partial / "index.html").write_text(_page(one, told, seen, figures, of, command), encoding="utf-8")


def _page(one: Asked, told: dict, seen: Seen, figures: Sequence[Figure], of: str, command: str) -> str:
    """The text of the page."""
    at = seen.metrics.isel(intervention=0, dose=int(seen.metrics["asked_dose"][0]))
    whole = [
        (MEASURES[name].title, MEASURES[name].meaning, [_value(at[name].sel(who=who)) for who in measure.WHO])
        for name in measure.COUNTED
    ]
    return (
        by_hand.templates()
        .get_template("intervention.html.j2")
        .render(
            style=by_hand.style("gatebook.css"),
            asked=one,
            told=told,
            of=of,
            command=command,
            change=page.change(at),
            introduction=CHAPTER.introduction,
            states=page.STATES,
            who=measure.WHO,
            measures=whole,
            weights=[_number(told["weight"][who]) for who in measure.WHO],
            control=page.control_of(seen.metrics, one.name),
            changed=one.at if isinstance(one.at, int) else len(told["tokens"]) - 1 if one.at == "last" else None,
            figures=figures,
            number=format_number,
        )
    )


def _value(values) -> str:
    """An estimate, with its interval if it has one."""
    estimate, low, high = values.values.tolist()
    text = _number(estimate)
    return text if low != low else f"{text} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "none" if value is None or value != value else f"{value:.4g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says, and print where the page is."""
    by_hand.main(parser(), run, arguments)


if __name__ == "__main__":
    main()
