"""Figures and findings on whether the token id decides which expert a token is sent to."""

from moeatlas import chapter, job, storage
from moeatlas.pages import vocabulary_specialization

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = vocabulary_specialization.figures(metrics, untrained)
findings = vocabulary_specialization.findings(metrics, untrained)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
