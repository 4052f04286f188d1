"""Which experts are selected together, against what their loads explain."""

from gatebook.chapters.coactivation import measure as coactivation
from gatebook.files import netcdf, tables
from gatebook.measures import summary
from gatebook.run import job
from gatebook.study import tallies

job.start(snakemake)
with tallies.open_tallies(snakemake.input.tallies) as tallies:
    metrics = coactivation.measure(tallies, confidence=snakemake.params.confidence)
    metrics.attrs |= tallies.study_identity(tallies)
netcdf.save(metrics, snakemake.output.metrics)
tables.save_table(summary.table(metrics, list(coactivation.MEASURES)), snakemake.output.table)
pooled = metrics.sel(dataset="pooled")
job.log(f"{int(pooled['tested_pairs'].sum())} pairs tested in {metrics.sizes['layer']} layers, {len(tallies)} datasets")
