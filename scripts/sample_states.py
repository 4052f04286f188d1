"""What routers receive for tokens of as many clusters as can be, and the experts that these tokens select."""

import json
from pathlib import Path

import torch

from gatebook.chapters.factors import states
from gatebook.chapters.maps.layers import chosen
from gatebook.files import netcdf, origin
from gatebook.inputs.documents import describe_dataset
from gatebook.measures.token_sample import of_windows
from gatebook.routing import extraction, models
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
name, checkpoint, settings = snakemake.wildcards.model, snakemake.wildcards.checkpoint, snakemake.params.model
folder, device = Path(snakemake.input.folder), models.choose_device(settings["device"])
torch.set_num_threads(snakemake.threads if device.type == "cpu" else 1)
files = snakemake.input.tokens
study = routed.read_tokens(files)
place = of_windows(study, **snakemake.params.tokens)
spans = states.windows(study, place)
total, longest = sum(map(len, spans)), max(map(len, spans))
description = models.describe(folder, settings["trust_remote_code"])
layers = models.choose_layers(settings["layers"], description["moe_layers"], f"models.{name}.layers")
layers = chosen(snakemake.params.layers, layers, "factors.layers")
extraction.check_tokens(name, description, longest, study["token_id"].sel(kind="input").values[place])
loading = {key: settings[key] for key in ("dtype", "attention", "experts", "gpus", "trust_remote_code")}
known = {"model": name, "model_id": settings.get("id") or settings.get("path") or "embedded demo"}
identity = origin.identity(description | known | {"checkpoint": checkpoint})
identity["datasets"] = json.dumps({each["dataset"]: each["tokens_sha256"] for each in map(describe_dataset, files)})
model = models.load(folder, device=device, last_layer=layers[-1], **loading)
batch = extraction.batch_tokens(snakemake.params.tokens_per_batch[device.type], model.config, device, longest)
with job.progress(total=total, unit=" tokens", description="sample states") as bar:

    def run(tokens_per_batch: int) -> None:
        """The states of all tokens, whole or not at all."""
        bar.reset()
        made = states.read(model, layers, study, place, tokens_per_batch=tokens_per_batch, advance=bar.update)
        netcdf.save(made.assign_attrs(identity | {"routing_rule": made.attrs["routing_rule"]}), snakemake.output.states)

    extraction.with_less_memory(batch, run)
job.log(f"{len(place)} tokens of {study.sizes['name']} datasets in layers {layers} on {device}, {total} read for them")
