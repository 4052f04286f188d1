"""Can routing be steered? Vectors of pairs of datasets, beside random ones, and what they cost."""

import json

import torch

from gatebook.chapters.base import results
from gatebook.chapters.steering import measure as steering
from gatebook.chapters.steering import plan, trial
from gatebook.files import tables
from gatebook.inputs.documents import load_tokens
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.routing import extraction, models
from gatebook.run import job
from gatebook.study.tallies import open_tallies, study_identity

LOGITS = 2**32
"""Bytes that the logits of a batch take at most."""

job.start(snakemake)
settings, loading = dict(snakemake.params.settings), dict(snakemake.params.model)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=loading["trust_remote_code"])
device = models.choose_device(loading.pop("device"))
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
model = models.load(snakemake.input.folder, device=device, head=True, **loading)
with open_tallies(snakemake.input.tallies) as tallies:
    identity = study_identity(tallies)
    tokens = {name: load_tokens(path) for name, path in zip(tallies, snakemake.input.tokens, strict=True)}
batch = extraction.batch_tokens(
    snakemake.params.tokens_per_batch[device.type], model.config, device, settings["length"]
)
batch = min(batch, LOGITS // 4 // model.config.vocab_size)
sides = {key: settings[key] for key in ("documents", "length", "seed")}
asking = {key: settings[key] for key in ("prompts", "choosing", "prompt", "seed")}
found: list[steering.Steered] = []
with job.progress(total=len(settings["pairs"]), unit=" pairs", description="pairs") as bar:

    def run(tokens_per_batch: int) -> None:
        """Steer all pairs, whole or not at all."""
        bar.reset()
        found.clear()
        for pair in settings["pairs"]:
            one, other = (plan.side(tokens[name], model.config.vocab_size, **sides) for name in pair)
            choosing, prompts = plan.prompts(tokens, pair, **asking)
            made = trial.run(model, one, other, choosing, prompts, settings, tokens_per_batch)
            found.append(steering.Steered(one, other, len(choosing.ids), prompts, made))
            bar.update(1)

    extraction.with_less_memory(batch, run)
metrics = steering.measure(
    found,
    doses=settings["doses"],
    compared_dose=settings["compared_dose"],
    **snakemake.params.statistics,
    fewest_clusters=snakemake.params.fewest_clusters,
)
told = {pair.name: steering.text_of(pair.outcome.examples, tokenizer.decode) for pair in found}
metrics = metrics.assign_attrs(examples=json.dumps(told, ensure_ascii=False))
results.save_metrics(metrics.assign_attrs(identity), snakemake.output.metrics)
tables.save_table(steering.table(metrics), snakemake.output.table)
job.log(f"{len(found)} pairs of {identity['model']}, {identity['checkpoint']}, on {device}")
