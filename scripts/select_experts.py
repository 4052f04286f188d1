"""Which experts the tokens of all datasets select at a checkpoint of which no records are made."""

from pathlib import Path

import numpy as np
import torch

from gatebook.files import netcdf, origin
from gatebook.measures.token_sample import counted, spread
from gatebook.routing import extraction, models, selections
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
name, checkpoint, settings = snakemake.wildcards.model, snakemake.wildcards.checkpoint, snakemake.params.model
folder, device = Path(snakemake.input.folder), models.choose_device(settings["device"])
torch.set_num_threads(snakemake.threads if device.type == "cpu" else 1)
study = routed.read_tokens(snakemake.input.tokens)
place = (spread if snakemake.params.windows else counted)(study, **snakemake.params.tokens)
ids, following = (study["token_id"].sel(kind=kind).values for kind in ("input", "next"))
window_start = np.flatnonzero(np.append(True, following[:-1] == routed.NONE)[place])
description = models.describe(folder, settings["trust_remote_code"])
layers = models.choose_layers(settings["layers"], description["moe_layers"], f"models.{name}.layers")
window = int(np.diff(window_start, append=len(place)).max())
extraction.check_tokens(name, description, window, ids[place])
loading = {key: settings[key] for key in ("dtype", "attention", "experts", "gpus", "trust_remote_code")}
model = models.load(folder, device=device, last_layer=layers[-1], **loading)
batch = extraction.batch_tokens(snakemake.params.tokens_per_batch[device.type], model.config, device, window)
with job.progress(total=len(place), unit=" tokens", description="select experts") as bar:

    def run(tokens_per_batch: int) -> None:
        """The selections of all tokens, whole or not at all."""
        bar.reset()
        options = {"tokens_per_batch": tokens_per_batch, "advance": bar.update}
        made = selections.select(model, layers, ids[place], window_start, **options)
        made = made.assign_coords(token=("token", place, {"long_name": "place among the study's tokens", "units": "1"}))
        known = {"model": name, "model_id": settings.get("id") or settings.get("path") or "embedded demo"}
        netcdf.save(
            made.assign_attrs(origin.identity(description | known | {"checkpoint": checkpoint})),
            snakemake.output.selections,
        )

    extraction.with_less_memory(batch, run)
job.log(f"{len(place)} tokens of {study.sizes['name']} datasets in {len(layers)} layers on {device}")
