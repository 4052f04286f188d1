"""Small additive statistics of a part's records: counts, sums and histograms per document."""

from collections.abc import Iterator

import xarray as xr

from gatebook.files import netcdf
from gatebook.files.origin import identity
from gatebook.inputs.documents import load_tokens
from gatebook.routing.records import layer_files
from gatebook.run import job
from gatebook.study import tallied

job.start(snakemake)
taken, files = tallied.path(snakemake.input.records), list(layer_files(snakemake.input.records).values())
tokens = load_tokens(snakemake.input.tokens, **snakemake.params.place)


def of_extraction() -> Iterator[xr.Dataset]:
    """One layer after another of the tally that was taken while the records were made."""
    with netcdf.open_lazily(taken) as tally:
        for index in range(tally.sizes["layer"]):
            layer = tally.isel(layer=[index]).load()
            layer.attrs = identity(tally.attrs)  # made by this job, not by that of the records
            yield layer


def from_files() -> Iterator[xr.Dataset]:
    """The tally of one layer after another."""
    import torch

    from gatebook.study import counting

    torch.set_num_threads(snakemake.threads)
    for path in job.progress(files, unit=" layers", description=f"tally {tokens.attrs['dataset']}"):
        with netcdf.open_lazily(path) as records:
            yield counting.tally_layer(records, tokens)


netcdf.save_parts(of_extraction() if taken.is_file() else from_files(), snakemake.output.tally, along="layer")
job.log(f"{tokens.sizes['document']} documents, {tokens.sizes['token']} tokens, {len(files)} layers")
