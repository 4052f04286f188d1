"""Whether experts serve particular kinds of text, per layer and dataset."""

from moeatlas import chapter, domain_specialization, job, storage

job.start(snakemake)
with storage.open_tallies(snakemake.input.tallies) as tallies:
    metrics = domain_specialization.measure(tallies, **snakemake.params.statistics, **snakemake.params.permutation)
    metrics.attrs |= storage.study_identity(tallies)
storage.save(metrics, snakemake.output.metrics)
measures = [name for name in domain_specialization.MEASURES if name in metrics]
storage.save_table(chapter.table(metrics, measures), snakemake.output.table)
job.log(f"{int(metrics['documents'][0])} documents, {len(tallies)} datasets")
