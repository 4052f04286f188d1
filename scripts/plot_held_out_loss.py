"""Figures and findings on how well the embedded model predicts held-out text."""

from gatebook.chapters.base import page
from gatebook.chapters.held_out_loss import page
from gatebook.files import netcdf
from gatebook.run import job

job.start(snakemake)
metrics = netcdf.load(snakemake.input.metrics)
figures, findings = page.figures(metrics), page.findings(metrics)
page.publish(snakemake.output.figures, figures, findings, metrics)
