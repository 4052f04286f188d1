"""What decides where a token goes: its id, the tokens before it, its dataset, or its position."""

from gatebook.chapters.base import results
from gatebook.chapters.determinants import CHAPTER
from gatebook.chapters.determinants import measure as determinants
from gatebook.files import tables
from gatebook.measures.summary import of_enough
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
layers = routed.read_layers(tokens, snakemake.input.records)
bar = job.progress(layers, total=tokens.sizes["layer"], unit=" layers", description="layers")
measured = determinants.measure(tokens, bar, **snakemake.params.settings, **snakemake.params.statistics)
measured = of_enough(measured, snakemake.params.fewest_clusters)
results.save(
    measured,
    CHAPTER,
    tokens.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(determinants.table(measured.metrics), snakemake.output.table)
job.log(f"{tokens.sizes['token']} tokens of {tokens.sizes['name']} datasets in {tokens.sizes['layer']} layers")
