"""The results folder as an RO-Crate, the standard description of a folder of research data (researchobject.org)."""

import mimetypes
from datetime import datetime, timedelta
from pathlib import Path

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

TYPES = {".nc": "application/x-netcdf", ".jsonl": "application/jsonl", ".safetensors": "application/octet-stream"}
WORKFLOW = "#workflow"


def describe(account: dict, outputs: list[dict], results: Path) -> dict:
    """The content of ro-crate-metadata.json: every file with its checksum, and the run that made them.

    account: what `provenance.account` returns; outputs: entries of receipts, {path, sha256, bytes}, of the files below
    `results`.
    """
    crate = ROCrate(gen_preview=False)
    ends = [datetime.fromisoformat(job["started"]) + timedelta(seconds=job["seconds"]) for job in account["jobs"]]
    crate.name = account["title"]
    crate.description = "How Mixture-of-Experts models route their tokens: everything that one study measured and drew"
    crate.datePublished = max(ends)
    crate.license = "https://spdx.org/licenses/MIT"
    workflow = crate.add(
        ContextEntity(
            crate,
            WORKFLOW,
            properties={
                "@type": "SoftwareSourceCode",
                "name": "Gatebook",
                "version": account["code"]["commit"],
                "programmingLanguage": "Snakemake",
                "license": "https://spdx.org/licenses/MIT",
            },
        )
    )
    files = [
        crate.add_file(
            dest_path=Path(entry["path"]).relative_to(results),
            properties={
                "name": Path(entry["path"]).name,
                "contentSize": entry["bytes"],
                "sha256": entry["sha256"],
                "encodingFormat": _media_type(entry["path"]),
            },
        )
        for entry in outputs
    ]
    run = ContextEntity(
        crate,
        "#run",
        properties={
            "@type": "CreateAction",
            "name": f"Run of the study {account['title']!r}",
            "startTime": account["jobs"][0]["started"],
            "endTime": max(ends).isoformat(),
        },
    )
    crate.add(run)
    run["instrument"] = workflow
    run["result"] = files
    crate.root_dataset["mentions"] = run
    return crate.metadata.generate()


def _media_type(path: str) -> str:
    return TYPES.get(Path(path).suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
