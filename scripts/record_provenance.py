"""Models, data, code, config, versions, seeds, hardware and run times of the study, and an RO-Crate of the results."""

import json
from pathlib import Path

from gatebook.files import atomic
from gatebook.inputs.documents import describe_dataset
from gatebook.run import crate, job, provenance, receipts

job.start(snakemake)
results = Path(snakemake.params.results)
found = [receipt for _, receipt in receipts.read(results / "receipts") if receipt]
jobs = receipts.of_study(found, results, snakemake.params.temporary)
account = provenance.account(
    config=snakemake.params.config,
    commit=snakemake.params.commit,
    software=job.software(),
    models=[json.loads(Path(path).read_text()) for path in snakemake.input.models],
    datasets=[describe_dataset(path) for path in snakemake.input.datasets],
    receipts=jobs,
)
there = [entry for receipt in jobs for entry in receipt["outputs"] if Path(entry["path"]).is_file()]
with atomic.atomic_file(snakemake.output.provenance) as path:
    path.write_text(json.dumps(account, indent=1, default=str) + "\n", encoding="utf-8")
with atomic.atomic_file(snakemake.output.crate) as path:
    path.write_text(json.dumps(crate.describe(account, there, results), indent=1) + "\n", encoding="utf-8")
job.log(f"{len(jobs)} jobs, {account['totals']['seconds']:.0f} s together, {account['totals']['files']} files")
