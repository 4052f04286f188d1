"""Whether the meaning of a token decides where it goes, beyond its token id."""

import json
from pathlib import Path

import numpy as np
import torch

from gatebook.chapters.base import results
from gatebook.chapters.meaning import CHAPTER, matching, measure
from gatebook.files import checksums, origin, tables
from gatebook.inputs import selected_probes
from gatebook.inputs.model_folder import load_tokenizer, window_size
from gatebook.measures import summary
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.routing.routers import find_routers
from gatebook.run import job

job.start(snakemake)
chosen, read, settings = (snakemake.params[name] for name in ("model", "read", "settings"))
(name, checkpoint), folder = snakemake.wildcards, snakemake.input.folder
trusted = {"trust_remote_code": chosen["trust_remote_code"]}
window = window_size(read["window"], str(folder), **trusted)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **trusted)
probes = [matching.match(probe, tokenizer, window) for probe in selected_probes.read(snakemake.params.probes)]
device = models.choose_device(chosen["device"])
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
model = models.load(folder, device=device, **{key: value for key, value in chosen.items() if key != "device"})
layers = models.choose_layers(read["layers"], sorted(find_routers(model)), f"models.{name}.layers")
rule, lengths = routing_rule(model.config), [len(text) for probe in probes for text in probe.texts]
longest = max(lengths, default=1)
batch = extraction.batch_tokens(snakemake.params.tokens_per_batch[device.type], model.config, device, longest)
with job.progress(total=sum(lengths), unit=" tokens", description="probes") as bar:
    sets = matching.selected(model, layers, probes, batch, bar.update)
measured = measure.measure(
    probes, sets, layers, experts=rule.experts, confidence=snakemake.params.confidence, **settings
)
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
description = json.loads(Path(snakemake.input.description).read_text(encoding="utf-8"))
texts = checksums.array_sha256(np.concatenate([[0], *(text for probe in probes for text in probe.texts)]))
known = {"model": name, "checkpoint": checkpoint, "tokens_sha256": texts, "routing_rule": rule.as_json()}
results.save(
    measured,
    CHAPTER,
    origin.identity(description | known),
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(summary.table(measured.metrics, CHAPTER.measures), snakemake.output.table)
sizes = {key: int(measured.metrics[key].isel(dataset=0)) for key in ("samples", "skipped", "tokens")}
job.log(f"{len(probes)} probes, {sizes['samples']} samples, {sizes['skipped']} skipped, {sizes['tokens']} occurrences")
