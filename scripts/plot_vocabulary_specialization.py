"""Figures and findings on whether the token id decides which expert a token is sent to."""

from moeatlas import chapter, job, storage
from moeatlas.pages import vocabulary_specialization

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = vocabulary_specialization.figures(metrics, untrained)
findings = vocabulary_specialization.findings(metrics, untrained)
with storage.atomic_directory(snakemake.output.figures) as folder:
    chapter.write(folder, figures, findings, storage.signature(metrics.attrs))
for finding in findings:
    job.log(f"{finding.question} {finding.answer}")
