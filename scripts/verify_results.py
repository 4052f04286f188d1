"""Every file of the results against the checksum that its job recorded when it wrote it."""

from pathlib import Path

from gatebook.problem import Problem
from gatebook.run import job, receipts

job.start(snakemake)
results = Path(snakemake.params.results)
found = list(receipts.read(results / "receipts"))
outputs = receipts.written([receipt for _, receipt in found if receipt])
faults = {path.as_posix(): "was changed: a receipt with its own checksum" for path, receipt in found if not receipt}
checked = receipts.faults(results, outputs, snakemake.params.temporary)
for path, fault in job.progress(checked, total=len(outputs), unit=" files", description="verify"):
    if fault:
        faults[path] = fault
for path, fault in faults.items():
    job.log(f"{path} {fault}")
if faults:
    raise Problem(
        f"{len(faults)} of {len(outputs)} files in results are not what their jobs wrote: they are named above; delete "
        "them and run the workflow again."
    )
job.log(f"All {len(outputs)} files of {len(found)} jobs are what was written.")
