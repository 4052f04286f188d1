"""Bytes per token and layer of records, against the information that bfloat16 router logits hold."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks import measuring, olmoe
from benchmarks.measuring import Row
from gatebook.routing import extraction

LIMITS = {"exact": 95.0, "compact": 20.0}
TOKENS = {"tokens": 65_536, "typical": 256, "longest": 1024}
SIZE, LAYER, TOKENS_PER_BATCH = "mid", 1, 4096
"""Layer 1 of the mid-size model: its router sees what a layer has made of the tokens."""


def write_layer(folder: Path, dtype: torch.dtype, records: str, size: str = SIZE, tokens: dict = TOKENS) -> Path:
    """The records file of layer `LAYER` of a model."""
    base = olmoe.build(size, dtype).model
    token_id, window_start = olmoe.documents(size, **tokens)
    extraction.write_records(
        folder, base, [LAYER], token_id, window_start, tokens_per_batch=TOKENS_PER_BATCH, records=records
    )
    return folder / f"layer_{LAYER}.nc"


def variable_bytes(path: Path) -> dict[str, int]:
    """Bytes on disk of every variable's compressed data."""
    with h5py.File(path) as file:
        names = [name for name in file if not file[name].is_scale]
        return {name: file[name].id.get_storage_size() for name in names}


def bfloat16_entropy(values: np.ndarray) -> float:
    """Entropy, in bits, of the distribution of float32 values that are bfloat16 numbers: -sum f log2 f.

    f are the relative frequencies of the distinct values. No code for one value at a time can need fewer bits on
    average. Raises a `ValueError` for values that are no bfloat16 numbers.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    if (bits & 0xFFFF).any():
        raise ValueError("the values are not bfloat16 numbers")
    count = np.bincount((bits >> 16).ravel())
    frequency = count[count > 0] / bits.size
    return float(-(frequency * np.log2(frequency)).sum())


def rows() -> list[Row]:
    """The information limit, and bytes per token and layer of every kind of records, by variable for bfloat16."""
    torch.set_num_threads(1)
    tokens, found = TOKENS["tokens"], []
    for dtype, records in (
        ("bfloat16", "exact"),
        ("bfloat16", "compact"),
        ("float32", "exact"),
        ("float32", "rounded"),
    ):
        measuring.say(f"storage: {dtype}, {records}")
        with tempfile.TemporaryDirectory() as folder:
            path = write_layer(Path(folder), getattr(torch, dtype), records)
            parts, total = variable_bytes(path), path.stat().st_size / tokens
            with h5py.File(path) as file:
                logits = file["router_logits"][:] if "router_logits" in file else None
        goal = LIMITS[records] if dtype == "bfloat16" else None
        what = f"{records} records of a {dtype} model, per token and layer"
        found.append(measuring.judged(what, total, "B", at_most=goal))
        if dtype == "bfloat16":
            found += [measuring.judged(f"- of which `{name}`", size / tokens, "B") for name, size in parts.items()]
            if logits is not None:
                limit = bfloat16_entropy(logits) * logits.shape[1] / 8
                found.insert(
                    0, measuring.judged("information in bfloat16 router logits, per token and layer", limit, "B")
                )
    return found


if __name__ == "__main__":
    print(measuring.table(rows()))
