"""Maps of router inputs and expert outputs, and how tokens lie in the spaces that they show."""

import torch

from gatebook.chapters.base import results
from gatebook.chapters.maps import CHAPTER, layers
from gatebook.chapters.maps import measure as maps
from gatebook.chapters.maps.contexts import contexts
from gatebook.files import tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures.summary import of_enough
from gatebook.run import job
from gatebook.study import samples

job.start(snakemake)
torch.set_num_threads(snakemake.params.threads)
settings = snakemake.params.settings
sample = samples.read(snakemake.input.records, snakemake.input.tokens)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.tokenizer)
sample = sample.merge(contexts(sample, snakemake.input.tokens, tokenizer))
numbers = layers.chosen(settings["layers"], sample["layer"].values.tolist())
blocks = samples.read_blocks(snakemake.input.records, snakemake.input.folder, numbers, **snakemake.params.model)
bar = job.progress(map(layers.of_block, blocks), total=len(numbers), unit=" layers", description="maps")
measured = maps.measure(sample, bar, points=settings["points"], **snakemake.params.statistics)
measured = of_enough(measured, snakemake.params.fewest_clusters)
results.save(
    measured,
    CHAPTER,
    sample.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(maps.table(measured.metrics), snakemake.output.table)
job.log(f"{sample.sizes['sample']} tokens in layers {numbers}, {measured.metrics.sizes['point']} of them on the maps")
