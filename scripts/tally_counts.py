"""The tally of one domain of published counts."""

from pathlib import Path

from gatebook.files import checksums, netcdf
from gatebook.inputs import published_counts
from gatebook.problem import Problem
from gatebook.run import job

job.start(snakemake)
name, dataset, model = snakemake.wildcards.model, snakemake.wildcards.dataset, snakemake.params.model
domain, files, top_k = snakemake.params.dataset["domain"], list(snakemake.input.files), model["experts_per_token"]
key = f"models.{name}.files"
counts = published_counts.check(key, published_counts.read(key, files), model["experts_per_layer"], top_k)
if domain not in counts["domain"]:
    known = ", ".join(counts["domain"].values)
    raise Problem(f"datasets.{dataset}.domain: {domain!r} is not in {', '.join(files)}: use one of {known}.")
tally = published_counts.tally(counts, domain, top_k).assign_attrs(
    model=name,
    model_id=model["id"],
    model_revision=model["revision"],
    checkpoint=snakemake.wildcards.checkpoint,
    dataset=dataset,
    dataset_id=f"domain {domain} of {', '.join(model['files'])}",
    dataset_sha256=checksums.sha256(*files),
    dataset_bytes=sum(Path(file).stat().st_size for file in files),
)
netcdf.save(tally, snakemake.output.tally)
job.log(f"{dataset}: {int(tally['tokens'].sum())} tokens, {tally.sizes['layer']} layers, no documents")
