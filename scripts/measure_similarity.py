"""How alike the experts of a layer are: their outputs for the same tokens, their weights, their router rows."""

from collections.abc import Iterator

import torch
import xarray as xr
from tqdm import tqdm

from gatebook.chapters.base import results
from gatebook.chapters.similarity import CHAPTER, geometry
from gatebook.chapters.similarity import measure as similarity
from gatebook.files import netcdf, tables
from gatebook.measures import summary
from gatebook.routing import models
from gatebook.run import job
from gatebook.study import samples

job.start(snakemake)
settings, seed = snakemake.params.model, snakemake.params.statistics["seed"]
torch.set_num_threads(snakemake.params.threads)
device = models.choose_device(settings["device"])
sample = samples.read(snakemake.input.records, snakemake.input.tokens)
numbers = sample["layer"].values.tolist()


def layers(bar: tqdm) -> Iterator[xr.Dataset]:
    """One layer after another, with only its block in memory."""
    for number in numbers:
        states, selected = samples.read_layer(snakemake.input.records, number)
        block = models.load_block(
            snakemake.input.folder, number, dtype=settings["dtype"], device=device, experts=settings["experts"]
        )
        found = geometry.compare(
            block,
            states,
            selected,
            sample["group"].values,
            models.block_gain(snakemake.input.folder, number),
            matched_pairs=snakemake.params.settings["matched_pairs"],
            seed=[seed, number],
        )
        yield found.assign_coords(layer=number)
        bar.update()


with job.progress(total=len(numbers), unit=" layers", description="compare experts") as bar:
    measured = similarity.measure(
        sample,
        layers(bar),
        lift=netcdf.load(snakemake.input.coactivation)["lift"],
        overlap=netcdf.load(snakemake.input.token_overlap)["weighted_jaccard"],
        permutations=snakemake.params.settings["permutations"],
        **snakemake.params.statistics,
    )
results.save(
    measured,
    CHAPTER,
    sample.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(summary.table(measured.metrics, CHAPTER.measures), snakemake.output.table)
job.log(f"{sample.sizes['sample']} tokens through all experts of layers {numbers}")
