"""The script of one rule by itself: the `snakemake` object that a job of the rule would get, to run and debug it with.

    python -m gatebook.run.alone measure_coactivation model=demo checkpoint=step400

A debugger takes the same line, as a module with arguments: breakpoints in the script and in the library hold. In a
notebook that was opened in the folder of the study:

    from gatebook.run.alone import snakemake_object
    snakemake = snakemake_object("measure_coactivation", model="demo", checkpoint="step400")
    %run -i scripts/measure_coactivation.py
"""

import argparse
import os
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING

from gatebook.problem import Problem
from gatebook.run import configuration

if TYPE_CHECKING:
    from snakemake.iocontainers import Namedlist, Snakemake
    from snakemake.rules import Rule
    from snakemake.workflow import Workflow

SNAKEFILE = Path(__file__).parents[3] / "Snakefile"
NOTHING = MappingProxyType({})


def snakemake_object(
    rule: str,
    *,
    directory: str | Path = ".",
    configfiles: Sequence[str | Path] = (),
    input: Mapping = NOTHING,
    output: Mapping = NOTHING,
    params: Mapping = NOTHING,
    **wildcards: str,
) -> "Snakemake":
    """The object `snakemake` that the script of a rule gets as a job, from the real Snakefile and config.

    The folders of its outputs and its log are made, as before a job; nothing is run. It takes a few seconds.

    Parameters
    ----------
    rule
        Name of a rule that has a script, such as "measure_coactivation".
    directory
        The folder of the study. Paths in the object are relative to it: run the script there.
    configfiles
        Overlays of the config, as after `--configfile`.
    input, output, params
        What is to differ from the rule, by name: a path or a list of paths; a value.
    **wildcards
        A value for each wildcard of the rule.

    Returns
    -------
    snakemake.script.Snakemake
        With `input`, `output`, `params`, `wildcards`, `threads`, `resources`, `log`, `config`, `rule`, `scriptdir`.

    Raises
    ------
    Problem
        If the config is wrong, the rule or a wildcard is unknown or missing, or an input does not exist.

    Examples
    --------
    >>> snakemake = snakemake_object("measure_coactivation", model="demo", checkpoint="step400")  # doctest: +SKIP
    >>> snakemake.output.metrics  # doctest: +SKIP
    'results/metrics/demo/step400/coactivation.nc'
    """
    changed = {"input": input, "output": output, "params": params}
    return _script_and_object(rule, directory, configfiles, wildcards, changed)[1]


def build(
    rule: str,
    *,
    log: str | Path,
    input: Mapping = NOTHING,
    output: Mapping = NOTHING,
    params: Mapping = NOTHING,
    wildcards: Mapping[str, str] = NOTHING,
    threads: int = 1,
    resources: Mapping = NOTHING,
    config: Mapping = NOTHING,
    scriptdir: str | None = None,
) -> "Snakemake":
    """The object `snakemake` of given values.

    Parameters
    ----------
    rule
        Name of the rule.
    log
        Path of the log.
    input, output
        By name a path, or a list of paths, which is a list under its name and part of the whole.
    params, wildcards, resources, config
        By name a value.
    threads
        How many the script may use.
    scriptdir
        The folder of the script.

    Returns
    -------
    snakemake.script.Snakemake
        As a script gets it.
    """
    from snakemake import iocontainers

    return iocontainers.Snakemake(
        input_=_paths(iocontainers.InputFiles(), input),
        output=_paths(iocontainers.OutputFiles(), output),
        params=iocontainers.Params(fromdict=dict(params)),
        wildcards=iocontainers.Wildcards(fromdict=dict(wildcards)),
        threads=threads,
        resources=iocontainers.ResourceList(fromdict=dict(resources)),
        log=iocontainers.Log([str(log)]),
        config=dict(config),
        rulename=rule,
        bench_iteration=None,
        scriptdir=scriptdir,
    )


@contextmanager
def read_workflow(
    directory: str | Path = ".", configfiles: Sequence[str | Path] = (), config: Mapping = NOTHING
) -> Iterator["Workflow"]:
    """The workflow that the Snakefile makes of a config, with `directory` as the working directory.

    The `configfiles` and then `config` are laid over the default config. The workflow's `globals` hold what the rules
    use: `config`, `study`, `sections` ... Raises a `Problem` if the config is wrong.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings import types

    if not Path(directory).is_dir():
        raise Problem(f"{directory} is not a folder: name the folder of a study.")
    for path in configfiles:
        configuration.read(path)  # Snakemake ends in a traceback if it cannot read one
    with SnakemakeApi(types.OutputSettings(quiet={types.Quietness.ALL}, enable_file_logging=False)) as api:
        reading = api.workflow(
            resource_settings=types.ResourceSettings(cores=os.cpu_count()),
            config_settings=types.ConfigSettings(config, [Path(path) for path in configfiles]),
            snakefile=SNAKEFILE,
            workdir=Path(directory),
        )
        try:
            workflow = reading._workflow
        except SystemExit as stop:  # what the Snakefile says of a wrong config
            raise Problem(str(stop.code).removeprefix("Error: ")) from None
        yield workflow


def job(
    workflow: "Workflow", rule: str, wildcards: Mapping[str, str], changed: Mapping[str, Mapping] = NOTHING
) -> tuple[Path, "Snakemake"]:
    """The script of a rule, and its object, of a workflow that was read; whether its inputs exist does not matter.

    `changed` is what is to differ from the rule: {"input", "output" or "params": {name: value}}.
    """
    found = _rule(workflow, rule)
    _check_wildcards(workflow, found, wildcards)
    script = Path(found.basedir.join(found.script).get_path_or_uri(secret_free=True)).resolve()
    return script, _expanded(workflow, found, wildcards, changed, str(script.parent))


def _script_and_object(
    rule: str,
    directory: str | Path,
    configfiles: Sequence[str | Path],
    wildcards: Mapping[str, str],
    changed: Mapping[str, Mapping],
) -> tuple[Path, "Snakemake"]:
    """The script of a rule, and the object for it, but for what is `changed` in its parts: {part: {name: value}}."""
    with read_workflow(directory, configfiles) as workflow:
        script, made = job(workflow, rule, wildcards, changed)
        if missing := [path for path in made.input if not Path(path).exists()]:
            others = f" (and {len(missing) - 1} others)" if missing[1:] else ""
            raise Problem(
                f"{rule} reads {missing[0]}{others}, which does not exist: make it by snakemake --cores 2 {missing[0]}"
            )
        for path in (*made.output, *made.log):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    return script, made


def _rule(workflow: "Workflow", name: str) -> "Rule":
    """The rule of that name, which has a script."""
    known = {rule.name: rule for rule in workflow.rules if rule.is_script}
    if name not in known:
        close = get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}."
        raise Problem(f"there is no rule {name!r} with a script: {remedy}")
    return known[name]


def _check_wildcards(workflow: "Workflow", rule: "Rule", wildcards: Mapping[str, str]) -> None:
    """A `Problem` unless `wildcards` are those of the rule, with values that the study has."""
    names = sorted(rule.wildcard_names)
    needs = f"its wildcards are {', '.join(names)}" if names else "it has no wildcards"
    if unknown := [name for name in wildcards if name not in names]:
        raise Problem(f"{rule.name}: {unknown[0]} is no wildcard of this rule: {needs}.")
    if missing := [name for name in names if name not in wildcards]:
        raise Problem(f"{rule.name}: the wildcard {missing[0]} is missing: {needs}; add {missing[0]}=VALUE.")
    study = workflow.globals["study"]
    known = {"model": study.models, "dataset": study.datasets, "chapter": workflow.globals["CHAPTERS"]}
    if (model := wildcards.get("model")) in study.models:
        known["checkpoint"] = study.models[model]["checkpoints"]
    for name, value in wildcards.items():
        if name in known and value not in known[name]:
            raise Problem(f"{rule.name}: {name}={value} is not in the study: use one of {', '.join(known[name])}.")
    for pattern in rule.output:
        path = str(pattern.apply_wildcards(dict(wildcards)))
        if not pattern.match(path):
            given = " ".join(f"{name}={value}" for name, value in wildcards.items())
            raise Problem(f"{rule.name} does not make {path} in this study: correct {given}.")


def _expanded(
    workflow: "Workflow", rule: "Rule", wildcards: Mapping[str, str], changed: Mapping[str, Mapping], scriptdir: str
) -> "Snakemake":
    """The object of a rule for given wildcards, but for what is `changed`."""
    from snakemake.exceptions import WorkflowError
    from snakemake.jobs import Job

    try:
        job = Job(rule, SimpleNamespace(workflow=workflow), dict(wildcards))
        parts = {name: dict(getattr(job, name).items()) for name in ("input", "output", "params", "resources")}
    except WorkflowError as error:  # what a function in the rule says of these wildcards
        raise Problem(f"{rule.name}: {error.__context__ or error}") from error
    return build(
        rule.name,
        **parts | {name: parts[name] | dict(values) for name, values in changed.items()},
        wildcards=wildcards,
        threads=job.threads,
        log=job.log[0],
        config=workflow.globals["config"],
        scriptdir=scriptdir,
    )


def _paths(files: "Namedlist", named: Mapping) -> "Namedlist":
    """`files`, which is empty, filled with paths under their names; a list of paths is a list there, too."""
    for name, value in named.items():
        start = len(files)
        if isinstance(value, str | Path):
            files.append(str(value))
            files._set_name(name, start)
        else:
            files.extend(map(str, value))
            files._set_name(name, start, end=len(files))
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script of a rule as the command line says, in this process and from then on in the study's folder."""
    parser = argparse.ArgumentParser(
        prog="python -m gatebook.run.alone",
        description="Run the script of one rule by itself, with the inputs, outputs and settings that it has as a job.",
        epilog="Example: python -m gatebook.run.alone measure_coactivation model=demo checkpoint=step400",
    )
    parser.add_argument("rule", help="a rule; snakemake --list-rules lists them")
    parser.add_argument("wildcards", nargs="*", metavar="NAME=VALUE", help="a value for each of its wildcards")
    parser.add_argument("--directory", default=".", help="the folder of the study (default: this one)")
    parser.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="overlays of the config")
    given = parser.parse_args(arguments)
    if wrong := [item for item in given.wildcards if "=" not in item]:
        parser.error(f"{wrong[0]!r} is no wildcard with its value: write NAME=VALUE, such as model=demo")
    wildcards = dict(item.split("=", 1) for item in given.wildcards)
    try:
        script, snakemake = _script_and_object(given.rule, given.directory, given.configfile, wildcards, {})
    except Problem as problem:
        sys.exit(f"Error: {problem}")
    os.chdir(given.directory)
    runpy.run_path(str(script), {"snakemake": snakemake}, run_name="__main__")  # its errors are for `job` to tell


if __name__ == "__main__":
    main()
