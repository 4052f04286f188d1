"""Figures and findings on whether the experts of a layer share their vocabulary."""

from moeatlas import chapter, job, storage
from moeatlas.pages import token_overlap

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures, findings = token_overlap.figures(metrics, untrained), token_overlap.findings(metrics, untrained)
with storage.atomic_directory(snakemake.output.figures) as folder:
    chapter.write(folder, figures, findings, storage.signature(metrics.attrs))
for finding in findings:
    job.log(f"{finding.question} {finding.answer}")
