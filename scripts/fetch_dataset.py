"""The rows of a dataset from the Hugging Face hub, at its pinned revision."""

import pyarrow.parquet as pq

from gatebook.files import atomic
from gatebook.inputs import hub
from gatebook.run import job

job.start(snakemake)
settings = snakemake.params.dataset
rows = hub.fetch_rows(
    snakemake.wildcards.dataset,
    settings["path"],
    name=settings["name"],
    split=settings["split"],
    revision=settings["revision"],
    limit=settings["documents"],
    where=settings.get("where", {}),
)
with atomic.atomic_file(snakemake.output.rows) as path:
    pq.write_table(rows, path)
commit = rows.schema.metadata[b"commit"].decode()
job.log(f"{settings['path']} at {settings['revision']}: commit {commit}, {rows.num_rows} rows")
