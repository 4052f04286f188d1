"""What training changes: when routing settles, what of it token ids alone explain, and loads on the way."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from gatebook.chapters.base import results
from gatebook.chapters.evolution import measure as evolution
from gatebook.chapters.reach import DTYPE
from gatebook.files import netcdf, tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures import uncertainty, vocabulary
from gatebook.measures.token_sample import counted
from gatebook.measures.uncertainty import POOLED
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
settings, tokens, checkpoints = dict(snakemake.params.settings), snakemake.input.tokens, snakemake.params.checkpoints
study = routed.read_tokens(tokens)
place = counted(study, settings.pop("tokens"), settings.pop("seed"))
folders = groupby(snakemake.input.records, lambda folder: Path(folder).parent.name)
records = {checkpoint: list(found) for checkpoint, found in folders}
recorded = {checkpoint: routed.read(found, tokens) for checkpoint, found in records.items()}
selections = {Path(path).name.removesuffix(".nc"): path for path in snakemake.input.selections}


def layers_of(checkpoint: str) -> Iterator[routed.Layer]:
    """What each layer did to the tokens that count, at a checkpoint with records or without."""
    if checkpoint in selections:
        yield from routed.read_selected(selections[checkpoint], place)
    else:
        for layer in routed.read_layers(recorded[checkpoint], records[checkpoint]):
            yield replace(layer, selected=layer.selected[place])


with job.without_torch(unless=snakemake.params.model["trust_remote_code"]):
    tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.model)
studied = recorded[checkpoints[-1]]
layers = zip(*map(layers_of, checkpoints), strict=True)
metrics = evolution.measure(
    study,
    place,
    checkpoints,
    job.progress(layers, total=studied.sizes["layer"], unit=" layers", description="layers"),
    texts=lambda ids: vocabulary.token_texts(tokenizer, ids),
    **settings,
    **snakemake.params.statistics,
)
metrics = uncertainty.without_few(metrics, snakemake.params.fewest_clusters, metrics["clusters"])
for path in snakemake.input.reach:  # one or none
    ceiling = netcdf.load(path)["ceiling"].sel(change=DTYPE, dataset=POOLED, drop=True)
    metrics["ceiling"] = ceiling.sel(layer=metrics["layer"])
weights = {checkpoint: read.attrs["weights_sha256"] for checkpoint, read in recorded.items()}
for checkpoint, path in selections.items():
    with netcdf.open_lazily(path) as found:
        weights[checkpoint] = found.attrs["weights_sha256"]
attrs = {"fewest_clusters": snakemake.params.fewest_clusters, "untrained": snakemake.params.untrained}
attrs["weights_sha256_by_checkpoint"] = json.dumps({name: weights[name] for name in checkpoints})
results.save_metrics(metrics.assign_attrs(studied.attrs | attrs), snakemake.output.metrics)
tables.save_table(evolution.table(metrics), snakemake.output.table)
job.log(f"{len(place)} tokens of {study.sizes['name']} datasets at {len(checkpoints)} checkpoints")
