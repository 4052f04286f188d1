"""Which experts the tokens of a dataset select, and with which weights, as Parquet: one file per layer."""

from gatebook.files import atomic
from gatebook.run import job
from gatebook.study import exported, routed

job.start(snakemake)
records, tokens = list(snakemake.input.records), routed.read(snakemake.input.records, [snakemake.input.tokens])
wanted = ("routing_weight",) if routed.hold_weights(records) else ()
with atomic.atomic_directory(snakemake.output.actives) as folder:
    for layer in routed.read_layers(tokens, records, *wanted):
        exported.write(exported.actives(layer, tokens.attrs), folder / f"layer_{layer.number:02d}.parquet")
job.log(f"{tokens.sizes['token']} tokens in {tokens.sizes['layer']} layers")
