"""Which experts a right answer needs, beyond as much weight of others."""

import json
from pathlib import Path

import numpy as np
import torch

from gatebook.chapters.base import results
from gatebook.chapters.multiple_choice import CHAPTER, asking, experts, measure, questions
from gatebook.files import checksums, origin, tables
from gatebook.inputs import items
from gatebook.inputs.model_folder import load_tokenizer, window_size
from gatebook.measures import summary
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.routing.routers import find_blocks
from gatebook.run import job
from gatebook.study import routed

LOGITS = 2**32
"""Bytes that the logits of a batch take at most."""

job.start(snakemake)
chosen, read, settings = (snakemake.params[name] for name in ("model", "read", "settings"))
(name, checkpoint), folder = snakemake.wildcards, snakemake.input.folder
of_which = {key: settings[key] for key in ("items", "calibration_items", "subjects", "leave_out", "seed")}
if settings["source"] == "text":
    sizes = {key: settings[key] for key in ("context", "answer")}
    asked = questions.of_text(routed.read_tokens(list(snakemake.input.tokens)), **sizes, **of_which)
else:
    trusted = {"trust_remote_code": chosen["trust_remote_code"]}
    asked = questions.of_items(
        {split: items.read(str(snakemake.input.rows), split) for split in items.SPLITS},
        load_tokenizer(str(snakemake.input.tokenizer), **trusted),
        window=window_size(read["window"], str(folder), **trusted),
        form=settings["form"],
        shots=settings["shots"],
        **of_which,
    )
device = models.choose_device(chosen["device"])
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
loading = {key: value for key, value in chosen.items() if key != "device"}
model = models.load(folder, device=device, head=True, **loading)
layers = models.choose_layers(read["layers"], sorted(find_blocks(model.base_model)), f"models.{name}.layers")
rule, longest = routing_rule(model.config), max((len(text) for one in asked.test for text in one.texts), default=1)
batch = extraction.batch_tokens(snakemake.params.tokens_per_batch[device.type], model.config, device, longest)
batch = min(batch, LOGITS // 4 // model.config.vocab_size)
reason = measure.nothing_removed(asked) if snakemake.params.changes else "this checkpoint shows chance alone"
own = None
if not reason:
    counts, tokens = asking.loads(model, layers, asked.calibration, asked.subjects, rule.experts, batch)
    sets = experts.specialised(counts, tokens, settings["experts"])
    own = sets[[asked.subjects.index(question.subject) for question in asked.test]]
close = measure.closely(asked.test, 0 if reason else settings["close_items"])
found: list[asking.Outcome] = []
with job.progress(total=len(asked.test), unit=" items", description="items") as bar:

    def run(tokens_per_batch: int) -> None:
        """What the model says, whole or not at all."""
        bar.reset()
        options = {"caliper": settings["caliper"], "tokens_per_batch": tokens_per_batch, "advance": bar.update}
        found[:] = [asking.ask(model, layers, rule.top_k, asked.test, own, close, **options)]

    extraction.with_less_memory(batch, run)
statistics = snakemake.params.statistics
measured = measure.measure(
    found[0],
    asked,
    layers,
    flips=settings["flips"],
    seed=settings["seed"],
    resamples=statistics["resamples"],
    resampling_seed=statistics["seed"],
    confidence=statistics["confidence"],
)
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
about = {"nothing_removed": reason, "source": settings["source"], "form": settings["form"], "shots": settings["shots"]}
if not reason:
    about["experts"] = json.dumps({subject: sets[index].tolist() for index, subject in enumerate(asked.subjects)})
measured = summary.Measured(measured.metrics.assign_attrs(about), measured.draws)
description = json.loads(Path(snakemake.input.description).read_text(encoding="utf-8"))
texts = checksums.array_sha256(*(np.concatenate(question.texts) for question in asked.test))
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
planned = measured.metrics[["contrast_estimate", "p_value", "q_value"]].to_dataframe().reset_index()
tables.save_table(planned, snakemake.output.contrasts)
job.log(f"{len(asked.test)} items of {len(asked.subjects)} subjects in {len(layers)} layers on {device}")
job.log(f"nothing removed: {reason}" if reason else f"{settings['experts']} experts of each subject removed")
