"""What every router received, decided and returned for every token: one file per layer."""

import json
import time
from pathlib import Path

import numpy as np
import torch

from moeatlas import extraction, job, models, storage
from moeatlas.records import RecordWriter

job.start(snakemake)
settings, extraction_settings = snakemake.params.model, snakemake.params.extraction
torch.set_num_threads(extraction_settings["threads"])
description = json.loads(Path(snakemake.input.description).read_text())
tokens = storage.load_tokens(snakemake.input.tokens)
extraction.check_tokens(description["model"], description, tokens.attrs["window"], tokens["token_id"].values)
device = models.choose_device(settings["device"])
loading = {name: settings[name] for name in ("dtype", "attention", "experts")}
model = models.load(snakemake.input.folder, device=device, **loading)
rule = models.routing_rule(model.config)
layers, total = description["layers"], tokens.sizes["token"]
per_batch = extraction_settings["tokens_per_batch"][device.type]
attributes = storage.identity(description | tokens.attrs) | {
    "routing_rule": rule.as_json(),
    "computation": json.dumps(loading | {"device": device.type, "tokens_per_batch": per_batch}, sort_keys=True),
}
rounded = extraction_settings["router_logits"] == "rounded"
sizes = {"tokens": total, "experts": rule.experts, "top_k": rule.top_k}
began = time.perf_counter()
bar = job.progress(total=total, unit=" tokens", description=f"route {tokens.attrs['dataset']}")
with (
    storage.atomic_directory(snakemake.output.records) as folder,
    RecordWriter(folder, layers, **sizes, rounded=rounded, attrs=attributes) as writer,
    bar,
):
    for layer, first, records in extraction.extract(
        model,
        models.find_routers(model),
        rule,
        layers,
        tokens["token_id"].values,
        np.flatnonzero(tokens["position"].values == 0),
        tokens_per_batch=per_batch,
    ):
        writer.write(layer, first, records)
        bar.update(len(records.router_logits) if layer == layers[-1] else 0)
rate = total / (time.perf_counter() - began)
job.log(f"{total} tokens x {len(layers)} layers on {device}, {rate:.0f} tokens/s")
