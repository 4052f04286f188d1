"""Gatebook: how Mixture-of-Experts language models route their tokens, as one reproducible study."""

from pathlib import Path
from snakemake.utils import min_version

min_version("9.0")

CONFIG = "config/config.yaml"


configfile: CONFIG if workflow.modifier.is_main_snakefile() and Path(CONFIG).exists() else workflow.source_path(CONFIG)


include: "rules/common.smk"
include: "rules/demo.smk"
include: "rules/inputs.smk"
include: "rules/tasks.smk"
include: "rules/extraction.smk"
include: "rules/ablation.smk"
include: "rules/states.smk"
include: "rules/naming.smk"
include: "rules/shelf.smk"
include: "rules/counts.smk"
include: "rules/traces.smk"
include: "rules/figures.smk"
include: "rules/browser.smk"
include: "rules/experts.smk"
include: "rules/report.smk"
include: "rules/parquet.smk"


for chapter in CHAPTERS:

    include: f"rules/{chapter}.smk"


if "wandb" in config["tracking"]:

    include: "rules/tracking.smk"


include: "rules/provenance.smk"  # last: it compares what jobs left behind with their rules


rule all:
    """The whole study: everything that results/report/index.html shows, and the metrics of every checkpoint."""
    default_target: True
    input:
        "results/report",
        [] if ON_OBJECT_STORAGE else "results/provenance.json",
        every_metrics(),
        ["results/tracking.json"] if "wandb" in config["tracking"] else [],
