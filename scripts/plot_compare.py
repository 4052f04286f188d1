"""Figures and findings on how the routing of two runs differs."""

from gatebook.chapters.base import page
from gatebook.chapters.compare import page
from gatebook.files import netcdf
from gatebook.run import job

job.start(snakemake)
metrics = netcdf.load(snakemake.input.metrics)
page.publish(snakemake.output.figures, page.figures(metrics), page.findings(metrics), metrics)
