"""What caches of experts hit, and what is told of the experts of the next layer and of the next token."""

from gatebook.chapters.base import results
from gatebook.chapters.reuse import CHAPTER
from gatebook.chapters.reuse.measure import measure
from gatebook.files import tables
from gatebook.measures.summary import of_enough, table
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
layers = routed.read_layers(tokens, snakemake.input.records)
bar = job.progress(layers, total=tokens.sizes["layer"], unit=" layers", description="layers")
measured = measure(tokens, bar, **snakemake.params.settings, **snakemake.params.statistics)
measured = of_enough(measured, snakemake.params.fewest_clusters)
results.save(
    measured,
    CHAPTER,
    tokens.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(table(measured.metrics, CHAPTER.measures), snakemake.output.table)
job.log(f"{tokens.sizes['token']} tokens of {tokens.sizes['name']} datasets in {tokens.sizes['layer']} layers")
