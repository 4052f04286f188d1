"""How evenly each layer spreads its tokens over the experts."""

from moeatlas import chapter, job, selection_frequency, storage

job.start(snakemake)
with storage.open_tallies(snakemake.input.tallies) as tallies:
    metrics = selection_frequency.measure(tallies, **snakemake.params.statistics, **snakemake.params.capacity)
    metrics.attrs |= storage.study_identity(tallies)
storage.save(metrics, snakemake.output.metrics)
measures = [name for name in selection_frequency.MEASURES if name in metrics]
storage.save_table(chapter.table(metrics, measures), snakemake.output.table)
pooled = metrics.sel(dataset="pooled")
job.log(f"{int(pooled['documents'])} documents, {int(pooled['tokens'])} tokens, {len(tallies)} datasets")
