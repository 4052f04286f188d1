"""Snakemake's metadata of results that were moved without them, from the receipts of their jobs."""

import json
from collections.abc import Iterable
from datetime import datetime

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import InputFiles
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence


def restore(workflow, found: Iterable[dict]) -> None:
    """Write, from the receipts `found`, the metadata of every output that has none.

    So Snakemake sees, as it does where the results were made, which jobs had other settings, code or inputs. Receipts
    of jobs that the study of the `workflow` does not have are passed over.
    """
    persistence = FilePersistence()
    for receipt in found:
        if not workflow.is_rule(receipt["rule"]):
            continue
        rule = workflow.get_rule(receipt["rule"])
        try:
            outputs, _ = rule.expand_output(receipt["wildcards"])
            unknown = [output for output in outputs if persistence.metadata(output) is None]
            record = _record(receipt, _params(receipt, rule, outputs)) if unknown else None
        except (WorkflowError, KeyError):  # of a model or dataset that the study does not have
            continue
        for output in unknown:
            persistence._write_record(str(output), record)


def _params(receipt: dict, rule, outputs) -> list:
    """The parameters that the job had: each as Snakemake has it now, if that is the same, else as the receipt says."""
    params, compared = rule.expand_params(receipt["wildcards"], InputFiles(), outputs, None)
    now = dict(params.items())
    had = receipt["settings"] | {"code": receipt["code"]}
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
