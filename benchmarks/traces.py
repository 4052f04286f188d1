"""Time and peak memory of importing routing traces, by the form of their files; each job in a process of its own."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from benchmarks import measuring
from benchmarks.measuring import Row, Usage

TOKENS, TEXT_TOKENS, LONGEST, FEWER = 1_000_000, 20_000, 10_000_000, 4
"""Tokens of the files of each form; of those of text; as many as memory is extrapolated to, from these and a part."""
LAYERS, EXPERTS, TOP_K, DOCUMENT = 16, 64, 8, 500
LEAST, MOST = 1e6, 2 * 2**30
"""Token-layers a second and core, and bytes."""
DESCRIPTION = {
    "experts": EXPERTS,
    "top_k": TOP_K,
    "trace_layers": list(range(LAYERS)),
    "layers": list(range(LAYERS)),
    "dense_layers": [],
    "family": "made up",
    "rule": {"family": "made up", "experts": EXPERTS, "top_k": TOP_K, "normalised": False},
}


def tokens_of(tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Token ids, documents of `DOCUMENT` tokens, and distinct experts at random: (token, layer, rank)."""
    random = np.random.default_rng(seed)
    first = random.integers(0, EXPERTS, (tokens, LAYERS, 1), dtype=np.int16)
    step = random.integers(0, EXPERTS // 2, (tokens, LAYERS, 1), dtype=np.int16) * 2 + 1  # odd: all ids differ
    return {
        "token_id": random.integers(0, 50_000, tokens, dtype=np.int32),
        "document": np.arange(tokens, dtype=np.int32) // DOCUMENT,
        "indices": (first + step * np.arange(TOP_K, dtype=np.int16)) % EXPERTS,
    }


def write_npz(folder: Path, made: dict[str, np.ndarray]) -> Path:
    """As arrays."""
    np.savez(folder / "traces.npz", **made)
    return folder / "traces.npz"


def write_safetensors(folder: Path, made: dict[str, np.ndarray]) -> Path:
    """As tensors."""
    save_file(made, folder / "traces.safetensors")
    return folder / "traces.safetensors"


def write_parquet(folder: Path, made: dict[str, np.ndarray]) -> Path:
    """As a folder of FLAME's columns."""
    (folder / "parquet/actives/v1").mkdir(parents=True)
    (folder / "parquet/samples").mkdir()
    columns = {name: made[name] for name in ("token_id", "document")}
    pq.write_table(pa.table(columns), folder / "parquet/samples/part_0.parquet")
    ends = np.arange(len(made["token_id"]) + 1, dtype=np.int32) * TOP_K
    for layer in range(LAYERS):
        indices = pa.ListArray.from_arrays(ends, np.ascontiguousarray(made["indices"][:, layer]).ravel())
        pq.write_table(pa.table({"indices": indices}), folder / f"parquet/actives/v1/layer_{layer:02d}.parquet")
    return folder / "parquet"


def write_lines(folder: Path, made: dict[str, np.ndarray]) -> Path:
    """As JSON lines with lists."""
    path = folder / "traces.jsonl"
    with path.open("w") as file:
        for start in range(0, len(made["token_id"]), DOCUMENT):
            part = slice(start, start + DOCUMENT)
            request = {"token_ids": made["token_id"][part].tolist(), "routed_experts": made["indices"][part].tolist()}
            file.write(json.dumps(request) + "\n")
    return path


FORMS = {"npz": write_npz, "safetensors": write_safetensors, "Parquet": write_parquet, "JSON lines": write_lines}
TEXT = ("JSON lines",)


def imported(folder: Path, path: Path) -> list[Usage]:
    """The jobs that read the tokens of traces, and what they select."""
    description, tokens = folder / "description.json", folder / "tokens.nc"
    description.write_text(json.dumps(DESCRIPTION))
    entry, model = {"limits": {}}, {"holds": "order", "tokens_per_dataset": "all", "trust_remote_code": False}
    inputs = {"description": str(description), "traces": [str(path)]}
    place = {"model": "made", "dataset": "made", "checkpoint": "v1", "part": "made"}
    params = {"dataset": entry, "model": model, "code": "benchmark"}
    return [
        measuring.run_job(
            "read_traces",
            ("gatebook.inputs.traces.forms",),
            inputs | {"tokenizer": []},
            {"tokens": str(tokens)},
            params | {"order": {"v1": [0]}},
            place,
        ),
        measuring.run_job(
            "import_traces",
            ("gatebook.routing.records",),
            inputs | {"tokens": str(tokens)},
            {"records": str(folder / "records")},
            params | {"place": {"shard": 1, "shards": 1}},
            place,
        ),
    ]


def rows(tokens: int = TOKENS, text_tokens: int = TEXT_TOKENS) -> list[Row]:
    """Token-layers a second of processor time, both jobs together, and the larger peak memory, by form."""
    found = []
    for form, write in FORMS.items():
        number = text_tokens if form in TEXT else tokens
        measuring.say(f"traces: {form}")
        jobs, fewer = _jobs(write, number), _jobs(write, number // FEWER)
        speed = number * LAYERS / sum(job.processor for job in jobs)
        goals = {} if form in TEXT else {"at_least": LEAST}
        found.append(measuring.judged(f"{form}: token-layers a second and core", speed, "", **goals))
        peak = max(job.peak for job in jobs)
        found.append(measuring.judged(f"{form}: peak memory, {number:,} tokens", peak / 2**20, "MiB"))
        if form not in TEXT:
            slopes = [
                (job.peak - less.peak) / (number - number // FEWER) for job, less in zip(jobs, fewer, strict=True)
            ]
            grown = max(job.peak + slope * (LONGEST - number) for job, slope in zip(jobs, slopes, strict=True))
            what = f"{form}: peak memory of {LONGEST:,} tokens, on the line through both sizes"
            found.append(measuring.judged(what, grown / 2**20, "MiB", at_most=MOST / 2**20))
    return found


def _jobs(write: Callable, tokens: int) -> list[Usage]:
    with tempfile.TemporaryDirectory() as folder:
        return imported(Path(folder), write(Path(folder), tokens_of(tokens)))


if __name__ == "__main__":
    print(measuring.table(rows()))
