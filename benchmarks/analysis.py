"""Time and memory of the tally and of router decisiveness, the scripts as the workflow runs them."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import yaml

from benchmarks import measuring, olmoe
from benchmarks.measuring import Row, Usage
from moeatlas import extraction, storage
from moeatlas.routing import routing_rule

SIZE, LAYERS, TOKENS_PER_BATCH = "tiny", (0, 1), 16_384
TOKENS = (100_000, 1_000_000)
JOBS = {
    "tally_routing": ("netCDF4", "moeatlas.routing", "moeatlas.tallies"),
    "measure_router_decisiveness": ("netCDF4", "moeatlas.chapter", "moeatlas.router_decisiveness"),
}
"""The jobs, by the name of their script, and the modules that are imported before they are measured."""
FLAT = 1.25
"""Peak memory counts as flat when ten times the tokens take at most so many times the memory."""


def make_dataset(folder: Path, tokens: int, records: str) -> dict[str, Path]:
    """Tokens and records of a dataset of documents of about 300 tokens, with 64 experts and top 8."""
    base = olmoe.build(SIZE, torch.bfloat16).model
    token_id, starts = olmoe.documents(SIZE, tokens, typical=300, longest=2048)
    lengths = np.diff(np.append(starts, tokens))
    names = np.array([f"document {index}" for index in range(len(starts))], dtype=object)
    position = np.arange(tokens) - np.repeat(starts, lengths)
    attributes = {"dataset": "random", "tokens_sha256": storage.array_sha256(token_id), "window": 2048}
    storage.save(
        xr.Dataset(
            {
                "token_id": ("token", token_id),
                "document_index": ("token", np.repeat(np.arange(len(starts), dtype=np.int32), lengths)),
                "position": ("token", position.astype(np.int32)),
                "text": ("document", np.full(len(starts), "", dtype=object)),
                "document_tokens": ("document", lengths.astype(np.int32)),
            },
            coords={"document_id": ("document", names)},
            attrs=attributes,
        ),
        folder / "tokens.nc",
    )
    made = folder / "records"
    made.mkdir()
    identity = attributes | {"routing_rule": routing_rule(base.config).as_json()}
    extraction.write_records(
        made, base, list(LAYERS), token_id, starts, tokens_per_batch=TOKENS_PER_BATCH, records=records, attrs=identity
    )
    return {"tokens": folder / "tokens.nc", "records": made}


def analyse(folder: Path, tokens: int, statistics: dict, records: str) -> dict[str, Usage]:
    """Time and memory of the two jobs on a new dataset of so many tokens, by the name of their script."""
    input, tally = make_dataset(folder, tokens, records), {"tally": folder / "tally.nc"}
    output = {"metrics": folder / "metrics.nc", "table": folder / "table.csv"}
    params = {"statistics": statistics}
    first, second = JOBS
    return {
        first: measuring.run_job(first, JOBS[first], input, tally),
        second: measuring.run_job(second, JOBS[second], {"tallies": [tally["tally"]]}, output, params),
    }


def rows() -> list[Row]:
    """Time per token and layer, peak memory, and how memory grows with ten times the tokens."""
    torch.set_num_threads(1)
    statistics = yaml.safe_load((measuring.ROOT / "config" / "config.yaml").read_text())["statistics"]
    usages = {}
    for tokens in TOKENS:
        measuring.say(f"analysis: {tokens} tokens")
        with tempfile.TemporaryDirectory() as folder:
            usages[tokens] = analyse(Path(folder), tokens, statistics, "exact")
    return summary(usages)


def summary(usages: dict[int, dict[str, Usage]]) -> list[Row]:
    """The rows of `rows` from the usage of every job by number of tokens."""
    found = []
    for job in next(iter(usages.values())):
        for tokens, usage in usages.items():
            per_record = 1e9 * usage[job].seconds / tokens / len(LAYERS)
            found.append(measuring.judged(f"{job}, {tokens:,} tokens: time per token and layer", per_record, "ns"))
            found.append(
                measuring.judged(
                    f"- peak memory ({usage[job].start / 1e6:.0f} MB of it packages)", usage[job].peak / 1e6, "MB"
                )
            )
        few, many = min(usages), max(usages)
        peaks = usages[few][job].peak, usages[many][job].peak
        what = f"{job}: peak memory, {many // few} times the tokens / once"
        found.append(measuring.judged(what, peaks[1] / peaks[0], "x", at_most=FLAT))
        found.append(measuring.judged("- growth per token", (peaks[1] - peaks[0]) / (many - few), "B"))
    return found


if __name__ == "__main__":
    print(measuring.table(rows()))
