"""What published counts are: the model that they are about, its layers and experts."""

import json

from gatebook.files import atomic
from gatebook.inputs import published_counts
from gatebook.run import job

job.start(snakemake)
name, model = snakemake.wildcards.model, snakemake.params.model
key, experts, top_k = f"models.{name}.files", model["experts_per_layer"], model["experts_per_token"]
counts = published_counts.check(key, published_counts.read(key, snakemake.input.files), experts, top_k)
description = {
    "model": name,
    "checkpoint": snakemake.wildcards.checkpoint,
    "model_id": model["id"],
    "model_revision": model["revision"],
    "layers": counts["layer"].values.tolist(),
    "experts": experts,
    "top_k": top_k,
}
with atomic.atomic_file(snakemake.output.description) as path:
    path.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
job.log(f"{name}: {counts.sizes['domain']} domains, layers {description['layers']}")
