"""What the model is whose routing was traced: its layers and experts, by its config.json or the study's config."""

import json
from pathlib import Path

from gatebook.files import atomic
from gatebook.routing import traced
from gatebook.run import job

job.start(snakemake)
name, settings = snakemake.wildcards.model, snakemake.params.model
folder = Path(snakemake.input.config[0]).parent if snakemake.input.config else None
description = traced.describe(f"models.{name}", settings, folder) | {
    "model": name,
    "checkpoint": snakemake.wildcards.checkpoint,
    "model_id": settings["id"],
    "model_revision": settings["revision"],
}
with atomic.atomic_file(snakemake.output.description) as path:
    path.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
job.log(f"{name}: layers {description['layers']}, {description['experts']} experts, top {description['top_k']}")
