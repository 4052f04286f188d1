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
settings, extraction_settings = snakemake.params.model, snakemake.params.extraction
threads = extraction_settings["threads"]
torch.set_num_threads(threads)
description = json.loads(Path(snakemake.input.description).read_text())
tokens = load_tokens(snakemake.input.tokens, **snakemake.params.place)
extraction.check_tokens(description["model"], description, tokens.attrs["window"], tokens["token_id"].values)
device = models.choose_device(settings["device"])
layers, total, first = description["layers"], tokens.sizes["token"], tokens.attrs.get("first_token", 0)
loading = {name: settings[name] for name in ("dtype", "attention", "experts", "gpus", "trust_remote_code")}
whole = extraction_settings["predictions"]
model = models.load(
    snakemake.input.folder, device=device, last_layer=None if whole else layers[-1], head=whole, **loading
)
rule = routing_rule(model.config)
dtype = str(model.dtype).removeprefix("torch.")
atomic.check_room(
    snakemake.output.records, records.largest_bytes(rule, extraction_settings["records"], dtype, total, len(layers))
)
budget = extraction_settings["tokens_per_batch"][device.type]
if budget == "auto":
    free = torch.cuda.mem_get_info(device)[0]
    budget = extraction.tokens_that_fit(model.config, free, tokens.attrs["window"])
computation = {
    "device": device.type,
    "gpus": settings["gpus"],
    "dtype": dtype,
    "attention": model.config._attn_implementation,
    "experts": model.config._experts_implementation,
}
in_dataset, sample = describe_dataset(snakemake.input.tokens)["tokens"], extraction_settings["sample"]
sampled = extraction.sample_tokens(in_dataset, **sample, name=tokens.attrs["dataset"])
sampled = sampled[(first <= sampled) & (sampled < first + total)] - first
bar = job.progress(total=total, unit=" tokens", description=f"route {tokens.attrs['dataset']}")
began = time.perf_counter()


def run(tokens_per_batch: int) -> None:
    """One extraction, whole or not at all."""
    bar.reset()
    with atomic.atomic_directory(snakemake.output.records) as folder:
        extraction.write_records(
            folder,
            model,
            layers,
            tokens["token_id"].values,
            np.flatnonzero(tokens["position"].values == 0),
            tokens_per_batch=tokens_per_batch,
            records=extraction_settings["records"],
            sampled=sampled if sample["size"] else None,
            first_token=first,
            threads=threads,
            advance=bar.update,
            attrs=identity(description | tokens.attrs)
            | {
                "routing_rule": rule.as_json(dense_layers=description["dense_layers"]),
                "computation": json.dumps(computation | {"tokens_per_batch": tokens_per_batch}, sort_keys=True),
            },
        )


with bar:
    extraction.with_less_memory(budget, run)
rate = total / (time.perf_counter() - began)
job.log(f"{total} tokens x {len(layers)} layers on {device}, {rate:.0f} tokens/s")
