"""What the commands share that do something by hand with a model of a study, and write a page below `prompts/`."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch
import transformers

from gatebook.inputs.catalogues import Study
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.problem import Problem
from gatebook.report.render import MissingKey, visible
from gatebook.routing import extraction, models
from gatebook.run.alone import SNAKEFILE, read_workflow

PROMPTS = Path("prompts")
REPORT = Path(__file__).parents[3] / "report"
LOADING = ("dtype", "attention", "experts", "gpus", "trust_remote_code")
"""The settings of a model with which `models.load` loads it."""


@dataclass(frozen=True)
class Chosen:
    """A model of a study at the checkpoint that is studied, the study, and its whole config."""

    name: str
    checkpoint: str
    study: Study
    config: dict

    @property
    def settings(self) -> dict:
        """The model's in the config."""
        return self.study.models[self.name]

    @property
    def folder(self) -> str:
        """Of the checkpoint, in the hub's layout."""
        return self.study.folder(self.name, self.checkpoint)

    @property
    def tokenizer(self) -> str:
        """The folder of the tokenizer."""
        return self.study.tokenizer(self.name)

    @property
    def label(self) -> str:
        """Model and checkpoint in words."""
        return f"{self.name}, {self.checkpoint}"


def main(
    parser: argparse.ArgumentParser, run: Callable[[Mapping], Path], arguments: Sequence[str] | None = None
) -> None:
    """Do what a command line says in the folder of the study, and print where the page is, or what is wrong.

    run: does what was given, and returns the folder that it wrote.
    """
    given = vars(parser.parse_args(arguments))
    try:
        os.chdir(given.pop("directory"))
        target = run(given | {"directory": "."})
    except (Problem, OSError) as problem:
        sys.exit(f"Error: {problem}")
    print(f"Page: {target.absolute() / 'index.html'}")


def chosen(given: Mapping, purpose: str) -> Chosen:
    """The model that was `given`, or the first of the study; a `Problem` if the study has none for this `purpose`."""
    with read_workflow(given["directory"], given["configfile"]) as workflow:
        study, config = workflow.globals["study"], workflow.globals["config"]
    name = given["model"] or next(iter(study.models))
    if name not in study.models:
        raise Problem(f"--model: the study has no model {name!r}: use one of {', '.join(study.models)}.")
    if study.of_counts:
        raise Problem(f"published counts have no model {purpose}.")
    if study.of_traces:
        raise Problem(f"routing traces have no model {purpose}.")
    return Chosen(name, study.studied_checkpoint(name), study, config)


@dataclass(frozen=True)
class Opened:
    """A model of a study, loaded with its head at the checkpoint that is studied, and what belongs to it.

    config: of the study; name, checkpoint, label: of the model; tokens: paths of the token files by dataset.
    """

    config: Mapping
    name: str
    checkpoint: str
    label: str
    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    tokens: dict[str, str]

    def batch(self, length: int) -> int:
        """How many tokens the model sees at once, in texts of some length."""
        wanted = self.config["extraction"]["tokens_per_batch"][self.model.device.type]
        return extraction.batch_tokens(wanted, self.model.config, self.model.device, length)


def opened(given: Mapping, datasets: Mapping[str, str]) -> Opened:
    """The model that was `given`, see `chosen`, whose files and those of datasets are made if they do not exist.

    datasets: those that are needed, by the option that names them; a `Problem` if the study does not have one.
    """
    picked = chosen(given, "that could be changed")
    for option, dataset in datasets.items():
        if dataset not in picked.study.datasets:
            raise Problem(f"{option}: {dataset!r} is not in the study: use one of {', '.join(picked.study.datasets)}.")
    tokens = {dataset: f"results/inputs/{picked.name}/{dataset}.nc" for dataset in picked.study.datasets}
    make((picked.folder, picked.tokenizer, *(tokens[dataset] for dataset in datasets.values())), given)
    wanted = picked.settings
    device = models.choose_device(wanted["device"])
    if device.type == "cpu":
        torch.set_num_threads(picked.config["extraction"]["threads"])
    model = models.load(picked.folder, device=device, head=True, **{key: wanted[key] for key in LOADING})
    tokenizer = load_tokenizer(picked.tokenizer, trust_remote_code=wanted["trust_remote_code"])
    return Opened(picked.config, picked.name, picked.checkpoint, picked.label, model, tokenizer, tokens)


def make(paths: Iterable[str], given: Mapping) -> None:
    """Make files of the study that do not exist, such as a model that is trained or fetched, and what they need."""
    missing = [path for path in paths if not Path(path).exists()]
    if not missing:
        return
    command = [sys.executable, "-m", "snakemake", *missing, "--snakefile", SNAKEFILE, "--directory", given["directory"]]
    command += ["--configfile", *given["configfile"]] if given["configfile"] else []
    if code := subprocess.run([*map(str, command), "--cores", "all", "--rerun-incomplete"]).returncode:
        sys.exit(code)  # its last lines say why


def command(program: str, given: Mapping) -> str:
    """The command line that gives the same in the folder of the study."""
    words = [
        part
        for key, value in given.items()
        if key != "directory" and value not in (None, [])
        for part in (f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)]))
    ]
    return shlex.join([*program.split(), *words])


def templates() -> jinja2.Environment:
    """The templates of pages, which escape what they are given."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPORT / "templates"),
        autoescape=True,
        undefined=MissingKey,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style(*names: str) -> str:
    """Stylesheets of the report, one after another, for a page that holds them."""
    return "\n".join((REPORT / "assets" / name).read_text(encoding="utf-8") for name in names)
