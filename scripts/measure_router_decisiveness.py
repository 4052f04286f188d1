"""How sure the router is of its choice, per layer and dataset."""

from gatebook.chapters.router_decisiveness import measure as router_decisiveness
from gatebook.files import netcdf, tables
from gatebook.measures import summary
from gatebook.run import job
from gatebook.study import tallies

job.start(snakemake)
with tallies.open_tallies(snakemake.input.tallies) as tallies:
    metrics = router_decisiveness.measure(tallies, **snakemake.params.statistics)
    metrics.attrs |= tallies.study_identity(tallies)
netcdf.save(metrics, snakemake.output.metrics)
tables.save_table(summary.table(metrics, list(router_decisiveness.MEASURES)), snakemake.output.table)
pooled = metrics.sel(dataset="pooled")
job.log(f"{int(pooled['documents'])} documents, {int(pooled['tokens'])} tokens, {len(tallies)} datasets")
