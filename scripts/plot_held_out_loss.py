"""Figures and findings on how well the embedded model predicts held-out text."""

from moeatlas import chapter, job, storage
from moeatlas.pages import held_out_loss

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
figures, findings = held_out_loss.figures(metrics), held_out_loss.findings(metrics)
chapter.publish(snakemake.output.figures, figures, findings, metrics)
