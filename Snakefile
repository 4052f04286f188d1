"""MoE Routing Atlas: how Mixture-of-Experts language models route their tokens, as one reproducible study."""

from pathlib import Path
from snakemake.utils import min_version

min_version("9.0")

CONFIG = "config/config.yaml"


configfile: CONFIG if workflow.modifier.is_main_snakefile() and Path(CONFIG).exists() else workflow.source_path(CONFIG)


include: "rules/common.smk"
include: "rules/demo.smk"
include: "rules/inputs.smk"
include: "rules/extraction.smk"
include: "rules/counts.smk"
include: "rules/held_out_loss.smk"
include: "rules/router_decisiveness.smk"
include: "rules/selection_frequency.smk"
include: "rules/domain_specialization.smk"
include: "rules/vocabulary_specialization.smk"
include: "rules/token_overlap.smk"
include: "rules/coactivation.smk"
include: "rules/similarity.smk"
include: "rules/maps.smk"
include: "rules/browser.smk"
include: "rules/experts.smk"
include: "rules/compare.smk"
include: "rules/report.smk"
include: "rules/provenance.smk"


rule all:
    """The whole study: everything that results/report/index.html shows, and the metrics of every checkpoint."""
    default_target: True
    input:
        "results/report",
        [] if ON_OBJECT_STORAGE else "results/provenance.json",
        every_checkpoint("results/metrics/{model}/{checkpoint}/{chapter}.nc"),
