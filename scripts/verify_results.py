"""Every file of the results against the checksum that its job recorded when it wrote it."""

import json
from pathlib import Path

from gatebook.files import checksums
from gatebook.problem import Problem
from gatebook.run import job, receipts

job.start(snakemake)
results, temporary = Path(snakemake.params.results), snakemake.params.temporary
found = list(receipts.read(results / "receipts"))
whole = [receipt for _, receipt in found if receipt]
outputs = receipts.written(whole)
if not outputs:
    raise Problem(
        f"{results.absolute()} holds no receipt of a finished job: run `snakemake verify` in the folder of a study, or "
        "name that folder with --directory."
    )
faults = {path.as_posix(): "was changed: a receipt with its own checksum" for path, receipt in found if not receipt}
account = results / "provenance.json"
entry = outputs.get(account.as_posix())
if entry and account.is_file() and checksums.sha256(account) == entry["sha256"]:
    study = json.loads(account.read_text(encoding="utf-8"))
    faults |= dict.fromkeys(receipts.lost(whole, study["jobs"]), "is in provenance.json, but its receipt is missing")
    temporary = [] if study["config"]["storage"]["keep_records"] else ["routing"]
checked = receipts.faults(results, outputs, temporary)
for path, fault in job.progress(checked, total=len(outputs), unit=" files", description="verify"):
    if fault:
        faults[path] = fault
for path, fault in faults.items():
    job.log(f"{path} {fault}")
if faults:
    raise Problem(
        f"{len(faults)} faults in the {len(outputs)} files of {results}, named above and in the log: delete those of "
        "them that are there, and run the workflow again with the config of the study."
    )
job.log(f"All {len(outputs)} files of {len(found)} jobs are what was written.")
