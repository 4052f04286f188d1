"""Figures and findings on how well the embedded model predicts held-out text."""

from moeatlas import chapter, job, storage
from moeatlas.pages import held_out_loss

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
figures, findings = held_out_loss.figures(metrics), held_out_loss.findings(metrics)
with storage.atomic_directory(snakemake.output.figures) as folder:
    chapter.write(folder, figures, findings, storage.signature(metrics.attrs))
for finding in findings:
    job.log(f"{finding.question} {finding.answer}")
