"""How sure the router is of its choice, per layer and dataset."""

from moeatlas import chapter, job, router_decisiveness, storage

job.start(snakemake)
with storage.open_tallies(snakemake.input.tallies) as tallies:
    metrics = router_decisiveness.measure(tallies, **snakemake.params.statistics)
    metrics.attrs |= storage.study_identity(tallies)
storage.save(metrics, snakemake.output.metrics)
storage.save_table(chapter.table(metrics, list(router_decisiveness.MEASURES)), snakemake.output.table)
pooled = metrics.sel(dataset="pooled")
job.log(f"{int(pooled['documents'])} documents, {int(pooled['tokens'])} tokens, {len(tallies)} datasets")
