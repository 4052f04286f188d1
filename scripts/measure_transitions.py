"""What a token's choice of experts in one layer says about its choice in the next layer."""

from gatebook.chapters.base import results
from gatebook.chapters.transitions import CHAPTER
from gatebook.chapters.transitions.measure import measure
from gatebook.files import tables
from gatebook.measures.summary import of_enough, table
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
wanted = ("router_logits",) if routed.hold_logits(snakemake.input.records) else ()
layers = routed.read_layers(tokens, snakemake.input.records, *wanted)
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
