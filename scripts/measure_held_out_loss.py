"""How well the embedded model predicts held-out text, per domain and checkpoint."""

import json

from moeatlas import chapter, held_out_loss, job, storage

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
table = chapter.interval_table(metrics["loss"])
storage.save_table(table.rename(columns={"dataset": "domain"}), snakemake.output.table)
job.log(f"weights sha256 by checkpoint: {json.dumps(weights)}")
