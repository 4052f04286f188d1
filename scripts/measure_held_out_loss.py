"""How well the embedded model predicts held-out text, per domain and checkpoint."""

import json

from moeatlas import held_out_loss, job, storage
from moeatlas.statistics import INTERVAL

job.start(snakemake)
training = storage.load(snakemake.input.training)
metrics = held_out_loss.measure(training, **snakemake.params.statistics)
checkpoint = snakemake.wildcards.checkpoint
weights = json.loads(training.attrs["weights_sha256"])
metrics.attrs |= {
    "model": snakemake.wildcards.model,
    "model_id": "embedded demo",
    "checkpoint": checkpoint,
    "weights_sha256": weights[checkpoint],
}
storage.save(metrics, snakemake.output.metrics)
table = metrics["loss"].to_dataset("interval").to_dataframe()[list(INTERVAL)].reset_index()
storage.save_table(table.rename(columns={"dataset": "domain"}), snakemake.output.table)
job.log(f"weights sha256 by checkpoint: {json.dumps(weights)}")
