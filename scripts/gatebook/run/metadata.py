"""Snakemake's metadata of results that came without them, or from version 0.1, by the receipts of their jobs."""

import json
from collections.abc import Iterable
from datetime import datetime

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import InputFiles
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence

ADOPTED = {
    "fetch_model.py": ("5a7b45af66975bf9", "2af46e00941fa51b", "051f0f5e0ec6e020", "2fdccca9cbe19028"),
}
"""Scripts that compute what they did in version 0.1, where their code stood elsewhere: the hash of that code, and those
of version 0.1 on Python 3.11, 3.12 and 3.13. What 0.1 made stands as long as a script has the hash that it has here."""


def restore(workflow, found: Iterable[dict]) -> None:
    """Write Snakemake's metadata of every output that has none, as the receipts `found` tell them.

    So Snakemake sees, as it does where the results were made, which jobs had other settings, code or inputs. In the
    metadata of version 0.1 the hash of `ADOPTED` code becomes that of today. Receipts of jobs that the study of the
    `workflow` does not have are passed over.
    """
    persistence = FilePersistence()
    hashes = {before: code for code, *earlier in ADOPTED.values() for before in earlier}
    for receipt in found:
        if not workflow.is_rule(receipt["rule"]):
            continue
        rule = workflow.get_rule(receipt["rule"])
        code = hashes.get(receipt["code"], receipt["code"])
        try:
            outputs, _ = rule.expand_output(receipt["wildcards"])
            records = {output: persistence.metadata(output) for output in outputs}
            made = None if all(records.values()) else _record(receipt, _params(receipt, code, rule, outputs))
        except (WorkflowError, KeyError):  # of a model or dataset that the study does not have
            continue
        for output, record in records.items():
            if record is None:
                persistence._write_record(str(output), made)
            elif code != receipt["code"] and repr(receipt["code"]) in record.params:
                record.params = sorted(repr(code) if each == repr(receipt["code"]) else each for each in record.params)
                persistence._write_record(str(output), record)


def _params(receipt: dict, code: str, rule, outputs) -> list:
    """The parameters that the job had: each as Snakemake has it now, if that is the same, else as the receipt says."""
    params, compared = rule.expand_params(receipt["wildcards"], InputFiles(), outputs, None)
    now, had = dict(params.items()), receipt["settings"] | {"code": code}
    for name in had.keys() & now.keys():
        if not any(now[name] is each for each in compared):  # made from inputs or outputs: Snakemake compares those
            del had[name]
        elif json.loads(json.dumps(now[name], default=str)) == had[name]:
            had[name] = now[name]
    return list(had.values())


def _record(receipt: dict, params: list) -> MetadataRecord:
    """What Snakemake would have noted when the job ended."""
    started = datetime.fromisoformat(receipt["started"]).timestamp()
    return MetadataRecord(
        rule=receipt["rule"],
        params=sorted(map(repr, params)),
        input=sorted(receipt["inputs"]) if "inputs" in receipt else None,  # version 0.1 did not note them
        starttime=started,
        endtime=started + receipt["seconds"],
        incomplete=False,
        record_format_version=RECORD_FORMAT_VERSION,
    )
