"""Figures and findings on how evenly each layer spreads its tokens."""

from moeatlas import chapter, job, storage
from moeatlas.pages import selection_frequency

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
untrained = storage.load(snakemake.input.untrained) if snakemake.input.untrained else None
figures = selection_frequency.figures(metrics, untrained)
findings = selection_frequency.findings(metrics, untrained, snakemake.params.thresholds)
with storage.atomic_directory(snakemake.output.figures) as folder:
    chapter.write(folder, figures, findings, storage.signature(metrics.attrs))
for finding in findings:
    job.log(f"{finding.question} {finding.answer}")
