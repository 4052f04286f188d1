"""The figures and findings of the chapter demo_training."""

from moeatlas import chapter, job, storage
from moeatlas.pages import demo_training

job.start(snakemake)
metrics = storage.load(snakemake.input.metrics)
figures, findings = demo_training.figures(metrics), demo_training.findings(metrics)
with storage.atomic_directory(snakemake.output.figures) as folder:
    chapter.write(folder, figures, findings, storage.signature(metrics.attrs))
for finding in findings:
    job.log(f"{finding.question} {finding.answer}")
