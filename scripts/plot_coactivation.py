"""Figures and findings on which experts are selected together."""

from moeatlas import chapter, job, storage
from moeatlas.pages import coactivation

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = coactivation.figures(metrics, untrained)
findings = coactivation.findings(metrics, untrained, snakemake.params.thresholds)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
