"""Figures and findings on whether the experts of a layer share their vocabulary."""

from gatebook.chapters.base import page
from gatebook.chapters.token_overlap import page
from gatebook.files import netcdf
from gatebook.run import job

job.start(snakemake)
metrics = netcdf.load(snakemake.input.metrics)
untrained = netcdf.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures, findings = page.figures(metrics, untrained), page.findings(metrics, untrained)
page.publish(snakemake.output.figures, figures, findings, metrics)
