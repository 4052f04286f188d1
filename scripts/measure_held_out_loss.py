"""How well the embedded model predicts held-out text, per domain and checkpoint."""

import json

from gatebook.chapters.base import results
from gatebook.chapters.held_out_loss import measure as held_out_loss
from gatebook.files import netcdf, tables
from gatebook.measures import summary, uncertainty
from gatebook.run import job

job.start(snakemake)
training = netcdf.load(snakemake.input.training)
metrics = held_out_loss.measure(training, **snakemake.params.statistics)
metrics = uncertainty.without_few(metrics, snakemake.params.fewest_clusters, metrics["clusters"])
checkpoint = snakemake.params.checkpoint
weights = json.loads(training.attrs["weights_sha256"])
metrics.attrs |= {
    "model": snakemake.wildcards.model,
    "model_id": "embedded demo",
    "checkpoint": checkpoint,
    "weights_sha256": weights[checkpoint],
}
results.save_metrics(metrics, snakemake.output.metrics)
table = summary.interval_table(metrics["loss"])
tables.save_table(table.rename(columns={"dataset": "domain"}), snakemake.output.table)
job.log(f"weights sha256 by checkpoint: {json.dumps(weights)}")
