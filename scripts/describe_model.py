"""What a checkpoint is: revision, checksum of its weights, layers with experts, and routing rule."""

import json
from pathlib import Path

from gatebook.files import atomic
from gatebook.routing import models
from gatebook.run import job

job.start(snakemake)
folder = Path(snakemake.input.folder)
name, checkpoint, settings = snakemake.wildcards.model, snakemake.wildcards.checkpoint, snakemake.params.model
description = models.describe(folder, settings["trust_remote_code"], head=snakemake.params.predictions)
layers = models.choose_layers(settings["layers"], description["moe_layers"], f"models.{name}.layers")
description |= {
    "model": name,
    "checkpoint": checkpoint,
    "model_id": settings.get("id") or settings.get("path") or "embedded demo",
    "layers": layers,
}
with atomic.atomic_file(snakemake.output.description) as path:
    path.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
if ignored := sorted({path.name for path in folder.glob("*.safetensors")} - set(description["files"])):
    job.log(f"{folder} holds files that the model does not name and that nobody reads: {', '.join(ignored)}")
job.log(f"{name} {checkpoint}: weights sha256 {description['weights_sha256']}, layers {layers}")
