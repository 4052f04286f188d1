"""Figures and findings on whether experts serve particular kinds of text."""

from moeatlas import chapter, job, storage
from moeatlas.pages import domain_specialization

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = domain_specialization.figures(metrics, untrained)
findings = domain_specialization.findings(metrics, untrained)
with storage.atomic_directory(snakemake.output.figures) as folder:
    chapter.write(folder, figures, findings, storage.signature(metrics.attrs))
for finding in findings:
    job.log(f"{finding.question} {finding.answer}")
