"""Figures and findings on how evenly each layer spreads its tokens."""

from moeatlas import chapter, job, storage
from moeatlas.pages import selection_frequency

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = selection_frequency.figures(metrics, untrained)
findings = selection_frequency.findings(metrics, untrained, snakemake.params.thresholds)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
