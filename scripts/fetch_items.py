"""Multiple-choice items from the Hugging Face hub, at their pinned revision."""

import pyarrow.parquet as pq

from gatebook.files import atomic
from gatebook.inputs import hub, items
from gatebook.run import job

job.start(snakemake)
repository = snakemake.params.repository
with atomic.atomic_directory(snakemake.output.rows) as partial:
    (partial / "all").mkdir(parents=True)
    for split in items.SPLITS:
        where = {"name": "all", "split": split, "revision": repository["revision"], "limit": None}
        pq.write_table(
            hub.fetch_rows("multiple_choice", repository["path"], **where), partial / "all" / f"{split}-00000.parquet"
        )
        job.log(f"{split}: {len(items.read(str(partial), split))} items")
