"""How alike the experts of a layer are: their outputs for the same tokens, their weights, their router rows."""

import torch

from gatebook.chapters.base import results
from gatebook.chapters.similarity import CHAPTER, geometry
from gatebook.chapters.similarity import measure as similarity
from gatebook.files import netcdf, tables
from gatebook.measures import summary
from gatebook.run import job
from gatebook.study import samples

job.start(snakemake)
torch.set_num_threads(snakemake.params.threads)
settings, statistics = snakemake.params.settings, snakemake.params.statistics
sample = samples.read(snakemake.input.records, snakemake.input.tokens)
numbers = sample["layer"].values.tolist()
blocks = samples.read_blocks(snakemake.input.records, snakemake.input.folder, numbers, **snakemake.params.model)
layers = geometry.layers(
    blocks,
    snakemake.input.folder,
    sample["group"].values,
    matched_pairs=settings["matched_pairs"],
    seed=statistics["seed"],
    workers=snakemake.threads,
)
coactivation = netcdf.load(snakemake.input.coactivation)
measured = similarity.measure(
    sample,
    job.progress(layers, total=len(numbers), unit=" layers", description="compare experts"),
    lift=coactivation["lift"],
    overlap=netcdf.load(snakemake.input.token_overlap)["weighted_jaccard"],
    permutations=settings["permutations"],
    **statistics,
)
measured.metrics["selected_share"] = coactivation["selected_share"]
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
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
