"""Maps of router inputs and expert outputs, with findings."""

from moeatlas import chapter, job, storage
from moeatlas.pages import maps

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = maps.figures(metrics, untrained)
findings = maps.findings(metrics, untrained, snakemake.params.thresholds)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
