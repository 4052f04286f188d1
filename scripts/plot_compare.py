"""Figures and findings on how the routing of two runs differs."""

from moeatlas import chapter, job, storage
from moeatlas.pages import compare

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
chapter.publish(snakemake.output.figures, compare.figures(metrics), compare.findings(metrics), metrics)
