"""Which parts of a model carry the behaviours of the study's tasks."""

import json
from pathlib import Path

import numpy as np
import torch

from gatebook.chapters.activation_patching import CHAPTER, run
from gatebook.chapters.activation_patching import measure as patching
from gatebook.chapters.base import results
from gatebook.files import checksums, origin, tables
from gatebook.measures import recovered, summary
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.routing.routers import find_blocks
from gatebook.run import job
from gatebook.study import pairs

job.start(snakemake)
settings, chosen = dict(snakemake.params.settings), dict(snakemake.params.model)
statistics, fewest = snakemake.params.statistics, snakemake.params.fewest_clusters
device = models.choose_device(chosen.pop("device"))
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
tasks = {Path(path).stem: pairs.read(path)[0] for path in snakemake.input.pairs}
titles = {Path(path).stem: pairs.read(path)[1]["title"] for path in snakemake.input.pairs}
model = models.load(snakemake.input.folder, device=device, head=True, **chosen)
layers, rule = sorted(find_blocks(model.base_model)), routing_rule(model.base_model.config)
longest = max(int(each.lengths.max()) for each in tasks.values())
most = snakemake.params.tokens_per_batch[device.type]
most = extraction.batch_tokens(most, model.config, device, longest)
permutations, seed = settings.pop("permutations"), settings["seed"]
clean, outcomes = {}, {}
for name, task in tasks.items():
    clean[name] = run.answers(model, task, most)
    resampling = recovered.resampled(task.source, statistics["resamples"], statistics["seed"], name)
    gate, sources = patching.gate(clean[name], resampling), len(set(task.source))
    if patching.passes(gate, statistics["confidence"], sources, fewest) and snakemake.params.patches:
        halves = patching.halves(task, seed)
        with job.progress(unit=" rows", description=name) as bar:
            outcomes[name] = run.study(model, task, halves, **settings, tokens_per_batch=most, advance=bar.update)
measured = patching.measure(
    tasks,
    clean,
    outcomes,
    layers,
    rule.experts,
    permutations=permutations,
    halves_seed=seed,
    fewest_clusters=fewest,
    **statistics,
)
about = {"titles": json.dumps(titles), "seed": seed, "steps": settings["steps"], "top": settings["top"]}
about |= {"random_sets": settings["random_sets"], "scrambles": settings["scrambles"]}
measured = summary.Measured(measured.metrics.assign_attrs(about), measured.draws)
description = json.loads(Path(snakemake.input.description).read_text(encoding="utf-8"))
texts = checksums.array_sha256(*(np.ascontiguousarray(task.ids) for task in tasks.values()))
known = {"model": snakemake.wildcards.model, "checkpoint": snakemake.wildcards.checkpoint}
known |= {"tokens_sha256": texts, "routing_rule": rule.as_json()}
results.save(
    measured,
    CHAPTER,
    origin.identity(description | known),
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(summary.table(measured.metrics, CHAPTER.measures), snakemake.output.table)
for name in tasks:
    said = "patched" if name in outcomes else "not patched"
    job.log(f"{name}: {len(tasks[name])} pairs of {len(set(tasks[name].source))} sources, {said}")
