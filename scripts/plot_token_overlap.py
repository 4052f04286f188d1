"""Figures and findings on whether the experts of a layer share their vocabulary."""

from moeatlas import chapter, job, storage
from moeatlas.pages import token_overlap

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures, findings = token_overlap.figures(metrics, untrained), token_overlap.findings(metrics, untrained)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
