"""What changing one expert does, in prompts and datasets as the config asks for it."""

import json

import torch
import xarray as xr

from gatebook.chapters.base import results
from gatebook.chapters.interventions import measure as interventions
from gatebook.chapters.interventions.asked import Asked
from gatebook.chapters.interventions.trial import tried
from gatebook.files import tables
from gatebook.inputs.documents import load_tokens
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.routing import extraction, models
from gatebook.run import job
from gatebook.study.tallies import open_tallies, study_identity

job.start(snakemake)
settings, loading = dict(snakemake.params.settings), dict(snakemake.params.model)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=loading["trust_remote_code"])
device = models.choose_device(loading.pop("device"))
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
model = models.load(snakemake.input.folder, device=device, head=True, **loading)
batch = snakemake.params.tokens_per_batch[device.type]
batch = extraction.batch_tokens(batch, model.config, device, settings["length"])
with open_tallies(snakemake.input.tallies) as tallies:
    identity, files = study_identity(tallies), dict(zip(tallies, snakemake.input.tokens, strict=True))


def tokens(dataset: str) -> xr.Dataset:
    """The token file of a dataset."""
    return load_tokens(files[dataset])


found, told = [], []
for entry in job.progress(settings.pop("asked"), unit=" changes", description="changes"):
    asked, options = Asked(**entry), {"settings": settings, "tokens_per_batch": batch}
    made, of, one = tried(model, tokenizer, asked, tokens, **options, place=f"interventions.asked: {entry['name']}")
    found.append((asked, made, of))
    told.append(one)
metrics = interventions.measure(
    found, **snakemake.params.statistics, fewest_clusters=snakemake.params.fewest_clusters
).assign_attrs(told=json.dumps(told, ensure_ascii=False))
results.save_metrics(metrics.assign_attrs(identity), snakemake.output.metrics)
tables.save_table(interventions.table(metrics), snakemake.output.table)
job.log(f"{len(found)} changes of {identity['model']}, {identity['checkpoint']}")
