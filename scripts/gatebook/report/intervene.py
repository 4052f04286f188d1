"""One change of one expert, by hand: python -m gatebook.report.intervene --prompt "..." --layer 1

It does to a prompt, or to a dataset of the study, what `interventions.asked` in the config does, with the same code,
and writes a page, figures and numbers into a folder of their own below `prompts/`. The study stays as it is.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch
import transformers

from gatebook.chapters.base.page import Figure, Seen
from gatebook.chapters.interventions import CHAPTER, MEASURES, asked, measure, page, trial
from gatebook.chapters.interventions.asked import Asked
from gatebook.figures import export
from gatebook.figures.words import format_number
from gatebook.files import atomic
from gatebook.inputs.documents import load_tokens
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.problem import Problem
from gatebook.report.render import MissingKey, visible
from gatebook.routing import extraction, models
from gatebook.run.alone import read_workflow

PROGRAM = "python -m gatebook.report.intervene"
REPORT = Path(__file__).parents[3] / "report"
LOADING = ("dtype", "attention", "experts", "gpus", "trust_remote_code")


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


@dataclass(frozen=True)
class Opened:
    """A model of a study, at the checkpoint that is studied, and what belongs to it.

    config: of the study; name, checkpoint: of the model; tokens: paths of the token files by dataset.
    """

    config: Mapping
    name: str
    checkpoint: str
    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    tokens: dict[str, str]

    def batch(self, length: int) -> int:
        """How many tokens the model sees at once, in texts of some length."""
        wanted = self.config["extraction"]["tokens_per_batch"][self.model.device.type]
        return extraction.batch_tokens(wanted, self.model.config, self.model.device, length)


def opened(given: Mapping, datasets: Mapping[str, str]) -> Opened:
    """The model of a study in its folder that the command line names; or raise a `Problem`.

    given: `model` (None for the first), `directory`, `configfile`; datasets: those that are needed, by the option that
    names them.
    """
    with read_workflow(given["directory"], given["configfile"]) as workflow:
        study, config = workflow.globals["study"], workflow.globals["config"]
    name = given["model"] or next(iter(study.models))
    if name not in study.models:
        raise Problem(f"--model: the study has no model {name!r}: use one of {', '.join(study.models)}.")
    if study.of_counts:
        raise Problem("published counts have no model that could be changed.")
    for option, dataset in datasets.items():
        if dataset not in study.datasets:
            raise Problem(f"{option}: {dataset!r} is not in the study: use one of {', '.join(study.datasets)}.")
    checkpoint = study.studied_checkpoint(name)
    folder, tokenizer = study.folder(name, checkpoint), study.tokenizer(name)
    tokens = {dataset: f"results/inputs/{name}/{dataset}.nc" for dataset in study.datasets}
    for path in (folder, tokenizer, *(tokens[dataset] for dataset in datasets.values())):
        if not Path(path).exists():
            raise Problem(f"{path} does not exist: make it by snakemake --cores 2 {path}")
    wanted = study.models[name]
    device = models.choose_device(wanted["device"])
    if device.type == "cpu":
        torch.set_num_threads(config["extraction"]["threads"])
    model = models.load(folder, device=device, head=True, **{key: wanted[key] for key in LOADING})
    read = load_tokenizer(tokenizer, trust_remote_code=wanted["trust_remote_code"])
    return Opened(config, name, checkpoint, model, read, tokens)


def run(given: Mapping) -> Path:
    """Do what was given, in the folder of the study, and return the folder that was written; or raise a `Problem`."""
    one = asked.checked(entry(given), "intervene")
    of_study = opened(given, {"--dataset": one.dataset} if one.dataset else {})
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
    name, checkpoint = of_study.name, of_study.checkpoint
    target = Path("prompts", _name(name, checkpoint, one, made.expert, given))
    write(target, one, told, seen, f"{name}, {checkpoint}", command_of(PROGRAM, given))
    return target


def _name(model: str, checkpoint: str, one: Asked, expert: int, given: Mapping) -> str:
    """The name of a folder, which says what was changed and is another one for every prompt and dose."""
    content = json.dumps({**entry(given), "expert": expert}, sort_keys=True).encode()
    place = one.dataset or f"token_{one.at}"
    return f"{model}_{checkpoint}_layer_{one.layer}_expert_{expert}_{place}_{hashlib.sha256(content).hexdigest()[:8]}"


def command_of(program: str, given: Mapping) -> str:
    """The command line that gives the same."""
    words = [
        part
        for key, value in given.items()
        if value not in (None, [], ".") and not (key == "generate" and not value)
        for part in (f"--{key}", *(value if isinstance(value, list) else [str(value)]))
    ]
    return shlex.join([*program.split(), *words])


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


def template(name: str) -> jinja2.Template:
    """A template of a page that stands alone."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPORT / "templates"),
        autoescape=True,
        undefined=MissingKey,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _page(one: Asked, told: dict, seen: Seen, figures: Sequence[Figure], of: str, command: str) -> str:
    """The text of the page."""
    at = seen.metrics.isel(intervention=0, dose=int(seen.metrics["asked_dose"][0]))
    whole = [
        (MEASURES[name].title, MEASURES[name].meaning, [_value(at[name].sel(who=who)) for who in measure.WHO])
        for name in measure.COUNTED
    ]
    return template("intervention.html.j2").render(
        style=(REPORT / "assets" / "gatebook.css").read_text(encoding="utf-8"),
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


def _value(values) -> str:
    """An estimate, with its interval if it has one."""
    estimate, low, high = values.values.tolist()
    text = _number(estimate)
    return text if low != low else f"{text} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "none" if value is None or value != value else f"{value:.4g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says, and print where the page is and what it says in a line."""
    given = vars(parser().parse_args(arguments))
    try:
        os.chdir(given.pop("directory"))
        target = run(given | {"directory": "."})
    except Problem as problem:
        sys.exit(f"Error: {problem}")
    except OSError as error:
        sys.exit(f"Error: {error}")
    print(f"Page: {target.absolute() / 'index.html'}")


if __name__ == "__main__":
    main()
