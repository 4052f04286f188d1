"""Figures and findings on how sure the router is of its choice."""

from moeatlas import chapter, job, storage
from moeatlas.pages import router_decisiveness

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = router_decisiveness.figures(metrics, untrained)
findings = router_decisiveness.findings(metrics, untrained, snakemake.params.thresholds)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
