"""Small additive statistics of a part's records: counts, sums and histograms per document."""

import torch

from gatebook.files import netcdf
from gatebook.inputs.documents import load_tokens
from gatebook.routing.records import layer_files
from gatebook.run import job
from gatebook.study import counting

job.start(snakemake)
torch.set_num_threads(snakemake.threads)
tokens = load_tokens(snakemake.input.tokens, **snakemake.params.place)
files = list(layer_files(snakemake.input.records).values())


def layers():
    """The tally of one layer after another."""
    for path in job.progress(files, unit=" layers", description=f"tally {tokens.attrs['dataset']}"):
        with netcdf.open_lazily(path) as records:
            yield counting.tally_layer(records, tokens)


netcdf.save_parts(layers(), snakemake.output.tally, along="layer")
job.log(f"{tokens.sizes['document']} documents, {tokens.sizes['token']} tokens, {len(files)} layers")
