"""The tokens of a dataset that have one role or phase."""

from gatebook.files import netcdf
from gatebook.inputs import phases
from gatebook.inputs.documents import load_tokens
from gatebook.inputs.variants import Variant
from gatebook.run import job

job.start(snakemake)
name = snakemake.wildcards.variant
found = phases.split(load_tokens(snakemake.input.tokens), name, Variant(**snakemake.params.variant))
netcdf.save(found, snakemake.output.tokens)
job.log(f"{name}: {found.sizes['token']} tokens of {found.sizes['document']} documents")
