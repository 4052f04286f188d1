"""The tally of a dataset from those of its shards, which is the one that the whole dataset would have."""

from contextlib import ExitStack

from gatebook.files import netcdf
from gatebook.run import job
from gatebook.study import tallies

job.start(snakemake)
with ExitStack() as files:
    shards = [files.enter_context(netcdf.open_lazily(path)) for path in snakemake.input.shards]
    layers = shards[0].sizes["layer"]
    by_layer = (
        tallies.combine([shard.isel(layer=[index]).load() for shard in shards])
        for index in job.progress(range(layers), unit=" layers", description=f"combine {shards[0].attrs['dataset']}")
    )
    netcdf.save_parts(by_layer, snakemake.output.tally, along="layer")
    job.log(f"{len(shards)} shards, {sum(shard.sizes['document'] for shard in shards)} documents, {layers} layers")
