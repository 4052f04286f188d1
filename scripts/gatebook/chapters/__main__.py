"""One chapter alone, from the command line: python -m gatebook.chapters similarity --model demo --layers 1

It runs in a folder of its own, alone/CHAPTER below the working directory, and only what the chapter needs: its figures,
tables and metrics, the metrics of chapters that it reads, and what these are made from. What the study in the working
directory has of the last, such as a trained model, is linked into that folder with its receipts; by these Snakemake
knows what was made with other settings and must be made again. The study itself stays as it is.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path

import yaml

from gatebook import chapters
from gatebook.chapters.base.contract import Chapter
from gatebook.files import atomic
from gatebook.problem import Problem
from gatebook.run import receipts
from gatebook.run.alone import SNAKEFILE, read_workflow

PROGRAM = "python -m gatebook.chapters"
UPSTREAM = ("demo", "models", "datasets", "inputs", "routing", "selections", "variants", "tallies")
"""Folders of the results that hold what chapters are made from."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def known() -> dict[str, Chapter]:
    """The declarations of all chapters by name."""
    folders = sorted(path.parent for path in Path(__file__).parent.glob("*/measure.py"))
    return {folder.name: chapters.declared(folder.name) for folder in folders}


def with_needed(name: str, declared: Mapping[str, Chapter]) -> list[str]:
    """A chapter, and before it those whose metrics it reads, and theirs."""
    found = [each for needed in declared[name].chapters for each in with_needed(needed, declared)]
    return list(dict.fromkeys([*found, name]))


def value_of(text: str) -> int | float | bool | str:
    """A word of the command line as the number, truth value or text that it would be in the config."""
    if not NUMBER.fullmatch(text):
        return {"true": True, "false": False}.get(text, text)
    number = float(text)
    return int(number) if number.is_integer() and "." not in text else number


def list_of(text: str) -> list:
    """Words with commas between them, as a list."""
    return [value_of(part) for part in text.split(",")]


def value_or_list(text: str):
    """Words with commas between them as a list, a single one as itself."""
    found = list_of(text)
    return found if len(found) > 1 else found[0]


def parser(declared: Mapping[str, Chapter]) -> argparse.ArgumentParser:
    """The command line of all chapters, as they are declared."""
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Answer one question alone, in a folder of its own.",
        epilog=f"{PROGRAM} CHAPTER --help lists what can be set.",
    )
    commands = whole.add_subparsers(dest="chapter", metavar="CHAPTER", title="chapters", required=True)
    for name, chapter in declared.items():
        command = commands.add_parser(
            name,
            help=chapter.question,
            description=chapter.question,
            epilog="What follows after -- are options of snakemake, such as -- --dry-run",
            allow_abbrev=False,
        )
        study = command.add_argument_group("what to study")
        study.add_argument("--model", metavar="NAME", help="a model of the config (default: those of its study)")
        study.add_argument("--layers", metavar="L", type=value_or_list, help="such as 1, 0-3 or 0,2-3 (default: all)")
        study.add_argument(
            "--tokens", metavar="N", type=value_of, help="of each dataset, at most (default: the config's)"
        )
        study.add_argument(
            "--datasets", metavar="A,B", type=list_of, help="of the config (default: those of its study)"
        )
        study.add_argument("--configfile", metavar="FILE", nargs="+", default=[], help="overlays of the config")
        study.add_argument("--cores", metavar="N", default="all", help="(default: all)")
        _add_settings(command, name, chapter.schema()["properties"])
    return whole


def _add_settings(command: argparse.ArgumentParser, section: str, properties: Mapping[str, dict]) -> None:
    """An option for each setting in a section of the config, named as there; it says nothing unless it is given."""
    group = command.add_argument_group(f"{section} in the config")
    for name, part in properties.items():
        if "properties" in part:
            _add_settings(command, f"{section}.{name}", part["properties"])
            continue
        several, default = part.get("type") == "array", part["default"]
        words = f"{part['title']} (default: {','.join(map(str, default)) if several else default})"
        group.add_argument(
            f"--{section}.{name}",
            metavar="VALUE",
            type=list_of if several else value_or_list,
            default=argparse.SUPPRESS,
            help=words.replace("%", "%%"),
        )


def overlay(given: Mapping, config: Mapping, declared: Mapping[str, Chapter]) -> dict:
    """The overlay of a config that studies one chapter alone, as the command line has `given` it.

    Raises a `Problem` for a model that is not in the catalogue.
    """
    name = given["chapter"]
    models = [given["model"]] if given["model"] else config["study"]["models"]
    if unknown := [model for model in models if model not in config["models"]]:
        raise Problem(f"there is no model {unknown[0]!r}: use one of {', '.join(config['models'])}.")
    study = {"title": f"{declared[name].title}, alone", "models": models}
    limits = {"layers": given["layers"], "tokens_per_dataset": given["tokens"]}
    limits = {key: value for key, value in limits.items() if value is not None}
    made = {
        "study": study | ({"datasets": given["datasets"]} if given["datasets"] else {}),
        "chapters": with_needed(name, declared),
        "models": {model: dict(limits) for model in models},
        "compare": config["compare"] if name == "compare" else [],
    }
    for key, value in given.items():
        *sections, last = key.split(".")
        if sections:
            reduce(lambda place, section: place.setdefault(section, {}), sections, made)[last] = value
    return made


def prepare(folder: Path, paths: Iterable[str]) -> None:
    """Make the folder of a chapter, with links to `paths` below the working directory and to what its study has.

    A folder that is there already keeps what it has.
    """
    for path in map(Path, paths):
        if ".." in path.parts:
            raise Problem(f"{path}, which the config names, lies outside of this folder: write its whole path.")
        if not path.is_absolute():
            _link(path, folder / path)
    if (folder / "results").exists():
        return
    with atomic.atomic_directory(folder / "results") as partial:
        for path, receipt in receipts.read(Path("results/receipts")):
            outputs = [Path(entry["path"]) for entry in receipt["outputs"]] if receipt else []
            if outputs and all(output.parts[1] in UPSTREAM for output in outputs):
                parents = {parent for output in outputs for parent in output.parents if len(parent.parts) > 1}
                for file in (*outputs, *(parent / ".snakemake_timestamp" for parent in parents), path):
                    _link(file, partial / file.relative_to("results"))


def _link(source: Path, target: Path) -> None:
    """A link, with the time of what it points to: by it Snakemake sees which of two files is newer."""
    if source.exists() and not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.absolute())
        modified = source.stat().st_mtime_ns
        os.utime(target, ns=(modified, modified), follow_symlinks=False)


def run(given: Mapping, declared: Mapping[str, Chapter], more: Sequence[str]) -> None:
    """Answer the question of a chapter, and print the answer and where its figures and tables are.

    `more` are options of snakemake. Raises a `Problem` if anything that was given is wrong.
    """
    name, folder, configfiles = given["chapter"], Path("alone", given["chapter"]), given["configfile"]
    with read_workflow(".", configfiles) as workflow:
        made = overlay(given, workflow.globals["config"], declared)
    with read_workflow(".", configfiles, config=made) as workflow:
        study, sections = workflow.globals["study"], workflow.globals["sections"]()
        reasons = {model: workflow.globals["left_out"](model).get(name) for model in study.models}
    places = [section["of"] for section in sections if section["chapter"] == name]
    if not places:
        reason = "; ".join(f"{model}: {reason}" for model, reason in reasons.items() if reason)
        raise Problem(f"{name} cannot be answered: {reason or 'the config lists no runs for it'}.")
    prepare(folder, [*study.local_paths().values(), "config/config.yaml"])
    own = folder / "study.yaml"
    own.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    targets = [f"results/figures/{place}/{name}" for place in places]
    command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", SNAKEFILE, "--directory", folder]
    command += ["--configfile", *configfiles, own, "--cores", given["cores"], "--rerun-incomplete", *more]
    if code := subprocess.run(list(map(str, command))).returncode:
        sys.exit(code)  # its last lines say why
    for place in places:
        _tell(folder, place, name, declared[name].title)


def _tell(folder: Path, place: str, name: str, title: str) -> None:
    """Print the findings of a chapter and where its files are, unless snakemake was asked for something else."""
    figures = folder / "results/figures" / place / name
    if figures.exists():
        print(f"\n{title}, {place}")
        for finding in json.loads((figures / "chapter.json").read_text(encoding="utf-8"))["findings"]:
            print(f"  {finding['question']} {finding['answer']}")
        print(f"  figures: {figures}")
        print(f"  tables:  {folder}/results/tables/{place}/{name}.csv")
        print(f"  numbers: {folder}/results/metrics/{place}/{name}.nc")


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer a question as the command line says; without a chapter, list them."""
    words, declared = list(sys.argv[1:] if arguments is None else arguments), known()
    end = words.index("--") if "--" in words else len(words)
    words, more = words[:end], words[end + 1 :]
    if words and words[0] not in declared and not words[0].startswith("-"):
        sys.exit(f"Error: there is no chapter {words[0]!r}: use one of {', '.join(declared)}.")
    given = vars(parser(declared).parse_args(words or ["--help"]))
    try:
        run(given, declared, more)
    except Problem as problem:
        sys.exit(f"Error: {problem}")


if __name__ == "__main__":
    main()
