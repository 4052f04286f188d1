"""Provenance of a study: everything that made its results, in one dictionary for results/provenance.json."""

from collections.abc import Iterator


def account(
    *,
    config: dict,
    commit: str,
    software: dict[str, str],
    models: list[dict],
    datasets: list[dict],
    receipts: list[dict],
) -> dict:
    """What made the results.

    Parameters
    ----------
    config
        Of the study.
    commit
        Of the code.
    software
        Versions by name.
    models
        Descriptions of the checkpoints.
    datasets
        Attributes of their token files with `documents` and `tokens`.
    receipts
        Those of the study's jobs, see `receipts.of_study`.

    Returns
    -------
    dict
        `title`, `code` {commit, hashes by rule}, `software`, `config`, `seeds` by config key, `models`, `datasets`,
        `hardware` (machines, with their jobs), `jobs` {rule, wildcards, started, seconds, hardware (index), files,
        bytes} in the order of their start, and `totals`.
    """
    ordered = sorted(receipts, key=lambda receipt: (receipt["started"], receipt["rule"], str(receipt["wildcards"])))
    machines: list[dict] = []
    for receipt in ordered:
        if receipt["hardware"] not in machines:
            machines.append(receipt["hardware"])
    jobs = [_job(receipt, machines.index(receipt["hardware"])) for receipt in ordered]
    return {
        "title": config["study"]["title"],
        "code": {"commit": commit, "rules": {receipt["rule"]: receipt["code"] for receipt in ordered}},
        "software": software,
        "config": config,
        "seeds": dict(_seeds(config)),
        "models": models,
        "datasets": [{key: value for key, value in dataset.items() if key != "provenance"} for dataset in datasets],
        "hardware": [
            machine | {"jobs": sum(job["hardware"] == index for job in jobs)} for index, machine in enumerate(machines)
        ],
        "jobs": jobs,
        "totals": {
            "jobs": len(jobs),
            "seconds": round(sum(job["seconds"] for job in jobs), 1),
            "files": sum(job["files"] for job in jobs),
            "bytes": sum(job["bytes"] for job in jobs),
        },
    }


def _job(receipt: dict, machine: int) -> dict:
    kept = {key: receipt[key] for key in ("rule", "wildcards", "started", "seconds")}
    sizes = [entry["bytes"] for entry in receipt["outputs"]]
    return kept | {"hardware": machine, "files": len(sizes), "bytes": sum(sizes)}


def _seeds(section: dict, path: str = "") -> Iterator[tuple[str, int]]:
    """Every number in the config whose key says that it is a seed, by its path."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _seeds(value, f"{path}{key}.")
        elif "seed" in str(key):
            yield f"{path}{key}", value
