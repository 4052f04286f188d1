"""Figures and findings on whether experts serve particular kinds of text."""

from gatebook.chapters.base import page
from gatebook.chapters.domain_specialization import page
from gatebook.files import netcdf
from gatebook.run import job

job.start(snakemake)
metrics = netcdf.load(snakemake.input.metrics)
untrained = netcdf.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = page.figures(metrics, untrained)
findings = page.findings(metrics, untrained)
page.publish(snakemake.output.figures, figures, findings, metrics)
