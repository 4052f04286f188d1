"""Which experts and attention are enough for a behaviour, and through which edges they reach the answer."""

import gc
import json
from pathlib import Path

import torch

from gatebook.chapters.base import results
from gatebook.chapters.expert_circuits import CHAPTER, measure, trace
from gatebook.files import origin, tables
from gatebook.measures import summary
from gatebook.routing import extraction, models
from gatebook.routing.edges import Parts
from gatebook.run import job
from gatebook.study import pairs

job.start(snakemake)
chosen, settings = dict(snakemake.params.model), snakemake.params.settings
statistics = snakemake.params.statistics
device = models.choose_device(chosen.pop("device"))
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
read = {Path(path).stem: pairs.read(path) for path in snakemake.input.pairs}
tasks = {name: found[trace.first_sources(found.source, settings["pairs"])] for name, (found, _) in read.items()}
longest = max(found.ids.shape[2] for found in tasks.values())
traced: dict[str, trace.Traced] = {}
then: dict[str, list[trace.Traced]] = {name: [] for name in tasks}


def does(found: trace.Traced) -> bool:
    """Whether the model does a task."""
    return measure.does(found, fewest_clusters=snakemake.params.fewest_clusters, **statistics)


def choose(found: trace.Traced, kind: str) -> int:
    """Which size is enough."""
    return measure.choose(found, kind, enough=settings["enough"], **statistics)


def parts_of(folder: str) -> tuple[Parts, int]:
    """The model of a checkpoint, taken apart, and how many tokens run at once."""
    model = models.load(folder, device=device, head=True, **chosen)
    tokens = snakemake.params.tokens_per_batch[device.type]
    return Parts(model), extraction.batch_tokens(tokens, model.config, device, longest)


parts, batch = parts_of(snakemake.input.folder)
for name, found in job.progress(tasks.items(), total=len(tasks), unit=" tasks", description="tasks"):

    def run(tokens_per_batch: int, name: str = name, found: pairs.Pairs = found) -> None:
        """What is traced of a task, whole or not at all."""
        traced[name] = trace.trace(parts, found, settings, choose, does, tokens_per_batch)

    extraction.with_less_memory(batch, run)
    job.log(f"{name}: {len(found)} pairs, {'traced' if traced[name].orders else 'the model does not do it'}")
description = json.loads(Path(snakemake.input.description).read_text(encoding="utf-8"))
for checkpoint, folder in zip(snakemake.params.checkpoints, snakemake.input.checkpoints, strict=True):
    if checkpoint == snakemake.params.studied:
        for name, found in traced.items():
            then[name].append(found)
        continue
    del parts  # one model in memory at a time
    gc.collect()
    parts, batch = parts_of(folder)
    for name, found in tasks.items():
        then[name].append(trace.trace_then(parts, found, traced[name], does, batch))
metrics = measure.measure(
    traced, then, snakemake.params.checkpoints, settings, fewest_clusters=snakemake.params.fewest_clusters, **statistics
)
known = {"model": snakemake.wildcards.model, "checkpoint": snakemake.params.studied}
known |= {"titles": json.dumps({name: about["title"] for name, (_, about) in read.items()})}
known |= {"tasks_sha256": json.dumps({name: about["tokens_sha256"] for name, (_, about) in read.items()})}
results.save_metrics(metrics.assign_attrs(origin.identity(description) | known), snakemake.output.metrics)
tables.save_table(summary.table(metrics, CHAPTER.measures), snakemake.output.table)
