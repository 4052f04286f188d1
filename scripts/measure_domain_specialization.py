"""Whether experts serve particular kinds of text, per layer and dataset."""

from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.files import netcdf, tables
from gatebook.measures import summary
from gatebook.run import job
from gatebook.study import tallies

job.start(snakemake)
with tallies.open_tallies(snakemake.input.tallies) as tallies:
    metrics = domain_specialization.measure(tallies, **snakemake.params.statistics, **snakemake.params.permutation)
    metrics.attrs |= tallies.study_identity(tallies)
netcdf.save(metrics, snakemake.output.metrics)
measures = [name for name in domain_specialization.MEASURES if name in metrics]
tables.save_table(summary.table(metrics, measures), snakemake.output.table)
job.log(f"{int(metrics['documents'][0])} documents, {len(tallies)} datasets")
