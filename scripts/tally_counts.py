"""The tallies of the domains of published counts that are the study's datasets."""

from pathlib import Path

from gatebook.files import checksums, netcdf
from gatebook.inputs import published_counts
from gatebook.problem import Problem
from gatebook.run import job

job.start(snakemake)
name, model, files = snakemake.wildcards.model, snakemake.params.model, list(snakemake.input.files)
key, top_k = f"models.{name}.files", model["experts_per_token"]
counts = published_counts.check(key, published_counts.read(key, files), model["experts_per_layer"], top_k)
identity = {
    "model": name,
    "model_id": model["id"],
    "model_revision": model["revision"],
    "checkpoint": snakemake.wildcards.checkpoint,
}
size = sum(Path(file).stat().st_size for file in files)
sources = {"dataset_sha256": checksums.sha256(*files), "dataset_bytes": size}
for (dataset, domain), path in zip(snakemake.params.domains.items(), snakemake.output.tallies, strict=True):
    if domain not in counts["domain"]:
        known = ", ".join(counts["domain"].values)
        raise Problem(f"datasets.{dataset}.domain: {domain!r} is not in {', '.join(files)}: use one of {known}.")
    origin = {"dataset": dataset, "dataset_id": f"domain {domain} of {', '.join(model['files'])}"} | sources
    tally = published_counts.tally(counts, domain, top_k, model["design_effect"]).assign_attrs(identity | origin)
    netcdf.save(tally, path)
    job.log(f"{dataset}: {int(tally['tokens'].sum())} tokens, {tally.sizes['layer']} layers, no documents")
