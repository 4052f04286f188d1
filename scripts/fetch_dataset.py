"""The rows of a dataset from the Hugging Face hub, at its pinned revision."""

from moeatlas import hub, job, storage

job.start(snakemake)
settings = snakemake.params.dataset
rows = hub.fetch_rows(
    snakemake.wildcards.dataset,
    settings["path"],
    name=settings.get("name"),
    split=settings["split"],
    revision=settings["revision"],
    limit=settings["limits"].get("documents"),
)
with storage.atomic_file(snakemake.output.rows) as path:
    rows.to_parquet(path)
job.log(f"{settings['path']} at {settings['revision']}: {rows.num_rows} rows")
