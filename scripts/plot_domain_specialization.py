"""Figures and findings on whether experts serve particular kinds of text."""

from moeatlas import chapter, job, storage
from moeatlas.pages import domain_specialization

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = domain_specialization.figures(metrics, untrained)
findings = domain_specialization.findings(metrics, untrained)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
