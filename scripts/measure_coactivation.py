"""Which experts are selected together, against what their loads explain."""

from moeatlas import chapter, coactivation, job, storage

job.start(snakemake)
with storage.open_tallies(snakemake.input.tallies) as tallies:
    metrics = coactivation.measure(tallies, confidence=snakemake.params.confidence)
    metrics.attrs |= storage.study_identity(tallies)
storage.save(metrics, snakemake.output.metrics)
storage.save_table(chapter.table(metrics, list(coactivation.MEASURES)), snakemake.output.table)
pooled = metrics.sel(dataset="pooled")
job.log(f"{int(pooled['tested_pairs'].sum())} pairs tested in {metrics.sizes['layer']} layers, {len(tallies)} datasets")
