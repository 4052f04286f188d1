"""What every router received, decided and returned for every token: one file per layer."""

import json
import time
from pathlib import Path

import numpy as np
import torch

from gatebook.files import atomic
from gatebook.files.origin import identity
from gatebook.inputs.documents import describe_dataset, load_tokens
from gatebook.routing import extraction, models, records
from gatebook.routing.rule import routing_rule
from gatebook.run import job

job.start(snakemake)
settings, wanted = snakemake.params.model, snakemake.params.extraction
torch.set_num_threads(wanted["threads"])
description = json.loads(Path(snakemake.input.description).read_text())
tokens = load_tokens(snakemake.input.tokens, **snakemake.params.place)
layers, total, window = description["layers"], tokens.sizes["token"], tokens.attrs["window"]
extraction.check_tokens(description["model"], description, window, tokens["token_id"].values)
device, whole = models.choose_device(settings["device"]), wanted["predictions"]
loading = {name: settings[name] for name in ("dtype", "attention", "experts", "gpus", "trust_remote_code")}
model = models.load(
    snakemake.input.folder, device=device, last_layer=None if whole else layers[-1], head=whole, **loading
)
rule, computation = routing_rule(model.config), models.computation(model, device) | {"gpus": settings["gpus"]}
needed = records.largest_bytes(rule, wanted["records"], computation["dtype"], total, len(layers))
in_dataset = describe_dataset(snakemake.input.tokens)["tokens"]
sampled = extraction.sample_of_part(tokens, in_dataset, **wanted["sample"])
states = extraction.wanted_states(wanted.get("states"), layers, tokens, in_dataset, wanted["sample"]["seed"])
if states:
    size = states.largest_bytes(model.config.hidden_size)
    job.log(f"hidden states of {len(states.tokens)} tokens: at most {size / 1e9:.3g} GB")
    needed += size
atomic.check_room(snakemake.output.records, needed)
bar = job.progress(total=total, unit=" tokens", description=f"route {tokens.attrs['dataset']}")
began = time.perf_counter()


def run(tokens_per_batch: int) -> None:
    """One extraction, whole or not at all."""
    bar.reset()
    attrs = {
        "routing_rule": rule.as_json(dense_layers=description["dense_layers"]),
        "computation": json.dumps(computation | {"tokens_per_batch": tokens_per_batch}, sort_keys=True),
    }
    with atomic.atomic_directory(snakemake.output.records) as folder:
        extraction.write_records(
            folder,
            model,
            layers,
            tokens["token_id"].values,
            np.flatnonzero(tokens["position"].values == 0),
            tokens_per_batch=tokens_per_batch,
            records=wanted["records"],
            sampled=sampled,
            states=states,
            first_token=tokens.attrs.get("first_token", 0),
            threads=wanted["threads"],
            advance=bar.update,
            attrs=identity(description | tokens.attrs) | attrs,
        )


with bar:
    extraction.with_less_memory(
        extraction.batch_tokens(wanted["tokens_per_batch"][device.type], model.config, device, window), run
    )
rate = total / (time.perf_counter() - began)
job.log(f"{total} tokens x {len(layers)} layers on {device}, {rate:.0f} tokens/s")
