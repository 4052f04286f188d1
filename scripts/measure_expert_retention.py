"""How much of what a model predicts is left with few experts of each layer."""

import json

import torch

from gatebook.chapters.base import results
from gatebook.chapters.expert_retention import CHAPTER
from gatebook.chapters.expert_retention import measure as retention
from gatebook.chapters.expert_retention.losses import losses
from gatebook.files import atomic, netcdf, tables
from gatebook.inputs.documents import load_tokens
from gatebook.measures import summary
from gatebook.routing import extraction, models
from gatebook.run import job
from gatebook.study.tallies import open_tallies, study_identity

job.start(snakemake)
settings, loading = dict(snakemake.params.settings), dict(snakemake.params.model)
shares, stage, enough = (settings.pop(name) for name in ("keep", "stage", "enough"))
datasets, least, random = (settings.pop(name) for name in ("datasets", "least_gain", "random"))
statistics, confidence = dict(snakemake.params.statistics), snakemake.params.confidence
device = models.choose_device(loading.pop("device"))
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
model = models.load(snakemake.input.folder, device=device, head=True, **loading)
batch = snakemake.params.tokens_per_batch[device.type]
batch = extraction.batch_tokens(batch, model.config, device, settings["length"])
vocabulary = model.config.get_text_config().vocab_size
with open_tallies(snakemake.input.tallies) as tallies:
    files = dict(zip(tallies, snakemake.input.tokens, strict=True))
    texts = {name: retention.texts_of(load_tokens(file), vocabulary, **settings) for name, file in files.items()}
    texts = {name: text for name, text in texts.items() if len(text.ids)}
    clean = {name: losses(model, text.ids, batch)[0] for name, text in texts.items()}
    known = retention.learned(retention.gains(texts, clean, **statistics), least, confidence)
    chosen, identity = retention.spaced(known, datasets), study_identity(tallies)
    scan = netcdf.load(snakemake.input.scan) if snakemake.input.scan else None
    orders = retention.rankings(tallies, chosen, scan, random=random, seed=settings["seed"])
    first = next(iter(tallies.values()))
    layers, experts = first["layer"].values.tolist(), first.sizes["expert"]
    numbers = retention.numbers_kept(shares, experts, first.sizes["rank"])
total = sum(texts[name].ids.size * len(orders[name]) * len(numbers) for name in chosen)
with job.progress(total=total, unit=" tokens", description="sets of experts") as bar:
    of_sets = {"layers": layers, "numbers": numbers, "stage": stage, "advance": bar.update}
    lost = {name: losses(model, texts[name].ids, batch, orders=orders[name], **of_sets)[1] for name in chosen}
of_sets = {"numbers": numbers, "experts": experts, "enough": enough}
measured = retention.measure(texts, clean, lost, **of_sets, confidence=confidence, **statistics)
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
attrs = {"stage": stage, "least_gain": least, "not_tried": ", ".join(name for name in files if name not in known)}
measured = summary.Measured(measured.metrics.assign_attrs(attrs), measured.draws)
results.save(
    measured,
    CHAPTER,
    identity,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(summary.table(measured.metrics, CHAPTER.measures), snakemake.output.table)
made = {"model": identity["model"], "checkpoint": identity["checkpoint"], "weights_sha256": identity["weights_sha256"]}
made |= {"made_by": "Gatebook, chapter expert_retention", "stage": stage, "tried_on": settings}
made["calibration"] = "documents of the groups of clusters with even numbers, of each dataset"
made["sets"] = retention.sets(orders, numbers, layers, measured.metrics)
with atomic.atomic_file(snakemake.output.sets) as path:
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
job.log(
    f"{len(known)} datasets with a gain, of which {len(chosen)}; {numbers} of {experts} experts kept, {total} tokens"
)
