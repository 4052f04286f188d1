"""The tokens of a dataset with what the studied checkpoint writes after each document."""

import json
from pathlib import Path

import numpy as np
import torch

from gatebook.files import netcdf
from gatebook.inputs import phases
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.routing import continuations, extraction, models
from gatebook.run import job

job.start(snakemake)
name, settings, wanted = snakemake.wildcards.dataset, snakemake.params.model, snakemake.params.generate
folder, device = str(snakemake.input.folder), models.choose_device(settings["device"])
torch.set_num_threads(snakemake.threads if device.type == "cpu" else 1)
tokens = netcdf.load(snakemake.input.tokens)
description = json.loads(Path(snakemake.input.description).read_text())
extraction.check_tokens(snakemake.wildcards.model, description, tokens.attrs["window"], tokens["token_id"].values)
loading = {key: settings[key] for key in ("dtype", "attention", "experts", "gpus", "trust_remote_code")}
model = models.load(folder, device=device, head=True, **loading)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=settings["trust_remote_code"])
prompts = np.split(tokens["token_id"].values, np.cumsum(tokens["document_tokens"].values)[:-1])
window, per_batch = tokens.attrs["window"], snakemake.params.tokens_per_batch[device.type]
made: list[np.ndarray] = []
with job.progress(total=len(prompts), unit=" documents", description=f"continue {name}") as bar:

    def run(tokens_per_batch: int) -> None:
        """The continuations of all documents."""
        bar.reset()
        options = {"tokens_per_batch": tokens_per_batch, "advance": bar.update, "seed": wanted.get("seed")}
        ends = continuations.ends_of(model, tokenizer)
        made[:] = continuations.write(model, prompts, tokens["row"].values, wanted["tokens"], ends=ends, **options)

    extraction.with_less_memory(extraction.batch_tokens(per_batch, model.config, device, window), run)
texts = [tokenizer.decode(ids).replace("\0", "\N{SYMBOL FOR NULL}") for ids in made]
netcdf.save(phases.continued(tokens, made, texts), snakemake.output.tokens)
job.log(f"{name}: {sum(map(len, made))} tokens after {len(made)} documents by {description['checkpoint']} on {device}")
