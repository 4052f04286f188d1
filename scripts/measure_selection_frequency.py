"""How evenly each layer spreads its tokens over the experts."""

from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.files import netcdf, tables
from gatebook.measures import summary
from gatebook.run import job
from gatebook.study import tallies

job.start(snakemake)
with tallies.open_tallies(snakemake.input.tallies) as tallies:
    metrics = selection_frequency.measure(tallies, **snakemake.params.statistics, **snakemake.params.capacity)
    metrics.attrs |= tallies.study_identity(tallies)
netcdf.save(metrics, snakemake.output.metrics)
measures = [name for name in selection_frequency.MEASURES if name in metrics]
tables.save_table(summary.table(metrics, measures), snakemake.output.table)
pooled = metrics.sel(dataset="pooled")
job.log(f"{int(pooled['documents'])} documents, {int(pooled['tokens'])} tokens, {len(tallies)} datasets")
