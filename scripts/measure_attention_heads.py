"""What attention heads look for in repeated random tokens, and what they do for the study's tasks."""

import json
from pathlib import Path

import torch

from gatebook.chapters.attention_heads import CHAPTER, doing, repeated
from gatebook.chapters.attention_heads.measure import measure
from gatebook.chapters.base import results
from gatebook.files import checksums, origin
from gatebook.files.tables import save_table
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.inputs.random_tokens import beginning, ordinary_tokens
from gatebook.measures.summary import table
from gatebook.problem import Problem
from gatebook.routing import extraction, heads, models
from gatebook.routing.families import routing_rule
from gatebook.run import job
from gatebook.study import pairs

LOGITS = 2**31
"""Bytes that the logits of a batch take at most."""

job.start(snakemake)
loading, settings, statistics = (dict(snakemake.params[name]) for name in ("model", "settings", "statistics"))
(name, checkpoint), trusted = snakemake.wildcards, loading["trust_remote_code"]
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=trusted)
device = models.choose_device(loading.pop("device"))
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
model = models.load(snakemake.input.folder, device=device, head=True, **loading)
drawn = repeated.sequences(
    ordinary_tokens(tokenizer, model.config.vocab_size),
    beginning(tokenizer),
    count=settings["sequences"],
    length=settings["length"],
    seed=settings["seed"],
)
tasks = {Path(path).stem: pairs.read(path)[0] for path in snakemake.input.pairs}
longest = max(drawn.ids["repeated"].shape[1], *(each.ids.shape[2] for each in tasks.values()), 1)
batch = extraction.batch_tokens(snakemake.params.tokens_per_batch[device.type], model.config, device, longest)
batch = max(min(batch, LOGITS // 4 // model.config.vocab_size), longest)
first = torch.from_numpy(drawn.ids["repeated"][:2]).to(device)
try:
    attentions, unknown = heads.find_attentions(model), ""
    apart = heads.check_plain(model, first)
except Problem as problem:
    attentions, unknown, apart = {}, str(problem), 0.0
done, failed = {}, {}
with job.progress(total=len(tasks) + 1, unit=" parts", description="heads") as bar:
    found = repeated.study(model, attentions, drawn, batch)
    bar.update(1)
    for task, each in tasks.items() if attentions else ():
        chosen = each[doing.chosen(each, settings["pairs"], settings["seed"])]
        failed[task] = doing.gate(model, task, each, batch, **statistics)
        if not failed[task]:
            done[task] = doing.study(model, attentions, chosen, batch)
        bar.update(1)
measured = measure(found, done, **statistics, fewest_clusters=snakemake.params.fewest_clusters)
metrics = measured.metrics.assign_attrs(
    heads_unknown=unknown,
    plain_difference=apart,
    not_done=json.dumps({task: reason for task, reason in failed.items() if reason}),
    direct_unknown=next((one.unknown for one in done.values() if one.unknown), ""),
)
description = json.loads(Path(snakemake.input.description).read_text(encoding="utf-8"))
texts = checksums.array_sha256(*drawn.ids.values(), *(each.ids for each in tasks.values()))
known = {"model": name, "checkpoint": checkpoint, "tokens_sha256": texts}
known["routing_rule"] = routing_rule(model.config).as_json()
results.save(
    measured._replace(metrics=metrics),
    CHAPTER,
    origin.identity(description | known),
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
save_table(table(metrics, CHAPTER.measures), snakemake.output.table)
job.log(f"{len(attentions)} layers with heads, {settings['sequences']} sequences; {', '.join(done) or 'no tasks'} done")
for reason in filter(None, (unknown, *failed.values())):
    job.log(reason)
