"""The records of a dataset's tokens that have one role or phase: one file per layer."""

from pathlib import Path

from gatebook.files import atomic, netcdf
from gatebook.inputs import phases
from gatebook.inputs.documents import load_tokens
from gatebook.routing import records
from gatebook.run import job

job.start(snakemake)
folders, tokens = [Path(folder) for folder in snakemake.input.records], load_tokens(snakemake.input.tokens)
named = {name: tokens.attrs[name] for name in ("dataset", "tokens_sha256")}
layers = list(records.layer_files(folders[0]))
with atomic.atomic_directory(snakemake.output.records) as unfinished:
    for layer in job.progress(layers, unit=" layers", description=f"split {named['dataset']}"):
        with records.open_layer(folders, layer) as whole:
            found = records.taken(whole, tokens["place"].values)
        found.attrs = phases.unsigned(found.attrs) | named
        netcdf.save(found, unfinished / f"layer_{layer}.nc")
job.log(f"{named['dataset']}: {tokens.sizes['token']} tokens, {len(layers)} layers")
