"""What placing experts on devices saves in traffic and costs in stragglers; and the loads, for a server that places."""

import json

from gatebook.chapters.base import results
from gatebook.chapters.placement import CHAPTER
from gatebook.chapters.placement.measure import measure
from gatebook.chapters.placement.served import expert_location, state_bytes
from gatebook.files import atomic, tables
from gatebook.measures.summary import of_enough, table
from gatebook.run import job
from gatebook.study import routed
from gatebook.study.tallies import open_tallies

job.start(snakemake)
with open_tallies(snakemake.input.tallies) as tallies:
    pairs = sum(tally["pair_count"].load() for tally in tallies.values())
    location = expert_location(tallies)
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
layers = routed.read_layers(tokens, snakemake.input.records)
bar = job.progress(layers, total=tokens.sizes["layer"], unit=" layers", description="layers")
measured = measure(
    tokens,
    bar,
    pairs,
    state_bytes=state_bytes(snakemake.input.records[0]),
    **snakemake.params.settings,
    **snakemake.params.statistics,
)
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
with atomic.atomic_file(snakemake.output.location) as path:
    path.write_text(json.dumps(location) + "\n", encoding="utf-8")
job.log(f"{measured.metrics.attrs['batches']} batches of {measured.metrics.attrs['batch_tokens']} tokens")
