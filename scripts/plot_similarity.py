"""Figures and findings on how alike experts are."""

from moeatlas import chapter, job, storage
from moeatlas.pages import similarity

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = similarity.figures(metrics, untrained)
findings = similarity.findings(metrics, untrained)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
