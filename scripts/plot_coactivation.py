"""Figures and findings on which experts are selected together."""

from gatebook.chapters.base import page
from gatebook.chapters.coactivation import page
from gatebook.files import netcdf
from gatebook.run import job

job.start(snakemake)
metrics = netcdf.load(snakemake.input.metrics)
untrained = netcdf.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = page.figures(metrics, untrained)
findings = page.findings(metrics, untrained, snakemake.params.thresholds)
page.publish(snakemake.output.figures, figures, findings, metrics)
