"""Which experts a right answer needs in each of the runs of `compare`."""

import json

from gatebook.chapters.base import results
from gatebook.chapters.multiple_choice_models import CHAPTER
from gatebook.chapters.multiple_choice_models.measure import measure
from gatebook.files import netcdf, origin, tables
from gatebook.measures import summary
from gatebook.run import job

job.start(snakemake)
runs = {}
for path in snakemake.input.metrics:
    metrics = netcdf.load(path)
    runs[f"{metrics.attrs['model']}/{metrics.attrs['checkpoint']}"] = metrics
joined = measure(runs)
joined.attrs["runs"] = json.dumps({name: origin.identity(each.attrs) for name, each in runs.items()}, sort_keys=True)
results.save_metrics(joined, snakemake.output.metrics)
tables.save_table(summary.table(joined, CHAPTER.measures), snakemake.output.table)
job.log(f"{len(runs)} runs")
