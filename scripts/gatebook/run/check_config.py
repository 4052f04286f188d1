"""The config with its overlays, checked as the Snakefile checks it: python -m gatebook.run.check_config my_study.yaml

Snakemake reads overlays before the Snakefile, and ends in a traceback if one is missing or not YAML; here that is a
sentence, too.
"""

import argparse
import sys
from collections.abc import Sequence

from gatebook.problem import Problem
from gatebook.run.alone import read_workflow


def summary(config: dict, study) -> str:
    """Which study a checked config selects (see `inputs.catalogues`), in a few lines."""
    models = [f"{name} ({', '.join(model['checkpoints'])})" for name, model in study.models.items()]
    lines = {
        "Study": [config["study"]["title"]],
        "Models": models,
        "Datasets": study.datasets,
        "Chapters": config["chapters"],
        "Compared": [f"{run['model']}/{run['checkpoint']}" for run in study.compared],
    }
    return "\n".join(f"{name + ':':10}{', '.join(found)}" for name, found in lines.items() if found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Say which study the config and its overlays make, or what is wrong with them."""
    parser = argparse.ArgumentParser(
        prog="python -m gatebook.run.check_config",
        description="Check a config, and say which study it is; nothing is run.",
    )
    parser.add_argument("configfile", nargs="*", metavar="FILE", help="overlays, as after --configfile of snakemake")
    given = parser.parse_args(arguments)
    try:
        with read_workflow(".", given.configfile) as workflow:
            print(summary(workflow.globals["config"], workflow.globals["study"]))
    except Problem as problem:
        sys.exit(f"Error: {problem}")


if __name__ == "__main__":
    main()
