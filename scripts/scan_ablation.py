"""What removing each expert does to the loss of a few documents of each dataset, and of others where it matters."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import transformers
import xarray as xr

from gatebook.chapters.expert_ablation import scan
from gatebook.files import netcdf, origin, parts
from gatebook.inputs.documents import load_tokens
from gatebook.inputs.model_folder import load_config
from gatebook.routing import extraction, models, patching
from gatebook.run import job
from gatebook.study.tallies import study_identity

job.start(snakemake)
name, checkpoint, settings = snakemake.wildcards.model, snakemake.wildcards.checkpoint, snakemake.params.model
folder, removing, output = Path(snakemake.input.folder), snakemake.params.settings, Path(snakemake.output.scan)
shelf = output.parent / parts.SHELF / checkpoint  # what a job that was stopped had finished
device, trusted = models.choose_device(settings["device"]), settings["trust_remote_code"]
torch.set_num_threads(snakemake.threads if device.type == "cpu" else 1)
description = models.describe(folder, trusted)
layers = models.choose_layers(settings["layers"], description["moe_layers"], f"models.{name}.layers")
datasets = {tokens.attrs["dataset"]: tokens for tokens in map(load_tokens, snakemake.input.tokens)}
numbers = {key: removing[key] for key in ("clusters", "tested_clusters", "seed")}
documents = {dataset: scan.chosen(tokens, **numbers) for dataset, tokens in datasets.items()}
texts = {dataset: [scan.windows(datasets[dataset], part) for part in each] for dataset, each in documents.items()}
window = max(len(text) for each in texts.values() for part in each for text in part)
for tokens in datasets.values():
    extraction.check_tokens(name, description, window, tokens["token_id"].values)


def load() -> transformers.PreTrainedModel:
    """The whole model."""
    job.log(f"loading {name} {checkpoint}")
    loading = {key: settings[key] for key in ("dtype", "attention", "experts", "gpus", "trust_remote_code")}
    return models.load(folder, device=device, head=True, **loading).requires_grad_(False)


def fitting(run: Callable[[int], xr.Dataset]) -> xr.Dataset:
    """What `run` gives of a number of tokens per batch, half of it if the device's memory runs out."""
    made, wanted = [], snakemake.params.tokens_per_batch[device.type]
    batch = extraction.batch_tokens(wanted, model.config, device, window)
    extraction.with_less_memory(batch, lambda tokens: made.append(run(tokens)))
    return made[0]


def scanned(dataset: str) -> xr.Dataset:
    """The scan of a dataset: from the shelf, if it is what this job would make, or else by the model."""
    made_from = [origin.provenance(), description["weights_sha256"], datasets[dataset].attrs["tokens_sha256"]]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()
    path, given = shelf / f"{dataset}.nc", texts[dataset][0]
    if path.exists() and (found := netcdf.load(path)).attrs["key"] == key:
        bar.update(len(given) * runs)
        return found
    begun, options = bar.n, {"stage": removing["stage"], "advance": bar.update}

    def run(tokens: int) -> xr.Dataset:
        """The scan, whole or not at all."""
        bar.update(begun - bar.n)
        return scan.scan(model, layers, given, tokens_per_batch=tokens, **options)

    made = fitting(run).merge(scan.about(datasets[dataset], documents[dataset][0]))
    shelf.mkdir(parents=True, exist_ok=True)
    netcdf.save(made.assign_attrs(key=key), path)
    return made


def tested(dataset: str) -> xr.Dataset:
    """What becomes of other documents of a dataset without the expert picked in it, and that picked in all."""
    options = {"cells": scan.cells_of(picked, dataset), "caliper": removing["caliper"]}
    made = fitting(lambda tokens: scan.tested(model, texts[dataset][1], tokens_per_batch=tokens, **options))
    return made.merge(scan.about(datasets[dataset], documents[dataset][1]))


joined = partial(xr.concat, dim="document", combine_attrs="drop")
runs = len(layers) * description["experts"]
reason = patching.refusal(load_config(folder, trusted))
if not reason:
    model = load()
    reason = scan.reason_against(model, layers, removing["stage"])
if reason:
    job.log(f"no expert is removed: {reason}")
    whole, others = scan.nothing(layers, description["experts"], list(datasets))
else:
    with job.progress(
        total=runs * sum(len(each) for each, _ in texts.values()), unit=" runs", description="scan"
    ) as bar:
        whole = joined(list(map(scanned, datasets)))
    picked = scan.picked(whole, list(datasets))
    whole, others = whole.merge(picked), joined(list(map(tested, datasets)))
known = {"model": name, "model_id": settings.get("id") or settings.get("path") or "embedded demo"}
identity = study_identity(
    {
        dataset: xr.Dataset(attrs=tokens.attrs | description | known | {"checkpoint": checkpoint})
        for dataset, tokens in datasets.items()
    }
)
attrs = identity | {"not_run": reason or "", "stage": removing["stage"], "caliper": removing["caliper"]}
netcdf.save(whole.assign_attrs(attrs), output, {"tested": others})
shutil.rmtree(shelf, ignore_errors=True)
with suppress(OSError):  # another checkpoint's may be there
    shelf.parent.rmdir()
job.log(
    f"{whole.sizes['document']} documents without each of {runs} experts on {device}, "
    f"{others.sizes['document']} without the picked ones"
)
