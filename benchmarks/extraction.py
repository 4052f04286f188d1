"""What extraction costs, writing included, against forward passes over the same batches."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import OlmoeForCausalLM

from benchmarks import measuring, olmoe
from benchmarks.measuring import Row
from gatebook.routing import extraction
from gatebook.routing.routers import find_routers

BATCH = "model(**batch)"
WITH_LOGITS = "model(**batch, output_router_logits=True)"
BARE = "base model"
STOPPED = "base model, stopped at the last router"
EXTRACTION = {records: f"extraction, {records} records" for records in ("exact", "compact")}
LIMITS = {"mid": {BATCH: 0.90, BARE: 1.03}, "demo": {BARE: 1.10}}
"""Goals: extraction with exact records, as a ratio to other passes."""
TOKENS = {
    "mid": {"tokens": 8192, "typical": 256, "longest": 1024},
    "demo": {"tokens": 12_000, "typical": 96, "longest": 128},
    "tiny": {"tokens": 2000, "typical": 24, "longest": 64},
}
"""Tokens and lengths of windows; those of the demo are those of one dataset of the embedded study."""
TOKENS_PER_BATCH = {"mid": 1024, "demo": 4096, "tiny": 512}


@dataclass(frozen=True)
class Setup:
    """One comparison: model size, dtype, threads of torch, the passes compared, and rounds."""

    size: str
    dtype: str
    threads: int
    passes: tuple[str, ...]
    rounds: int


ESSENTIAL = (BATCH, BARE, EXTRACTION["exact"])
SETUPS = (
    Setup("mid", "bfloat16", 1, (BATCH, WITH_LOGITS, BARE, STOPPED, EXTRACTION["exact"]), 5),
    Setup("mid", "bfloat16", 2, ESSENTIAL, 3),
    Setup("mid", "float32", 1, ESSENTIAL, 3),
    Setup("demo", "float32", 1, (BATCH, WITH_LOGITS, BARE, STOPPED, *EXTRACTION.values()), 9),
    Setup("demo", "float32", 2, ESSENTIAL, 9),
)


def write_records(
    model: OlmoeForCausalLM,
    token_id: np.ndarray,
    window_start: np.ndarray,
    tokens_per_batch: int,
    records: str,
    threads: int = 1,
) -> int:
    """Extract the routing of all layers into files that are deleted again; `threads` compress them. Returns bytes."""
    base = model.model
    with tempfile.TemporaryDirectory() as folder:
        extraction.write_records(
            Path(folder),
            base,
            sorted(find_routers(base)),
            token_id,
            window_start,
            tokens_per_batch=tokens_per_batch,
            records=records,
            threads=threads,
        )
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def extracted_batches(model: OlmoeForCausalLM, extract: Callable[[], object]) -> list[torch.Tensor]:
    """The token ids (window, position) of the batches that `extract` runs through the base model, in its order."""
    batches = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    extract()
    hook.remove()
    return batches


class _Stop(Exception):
    pass


def passes(
    model: OlmoeForCausalLM, token_id: np.ndarray, window_start: np.ndarray, tokens_per_batch: int, threads: int = 1
) -> dict[str, Callable[[], object]]:
    """The passes that are compared; all see the same batches, padding included, and keep nothing for later tokens."""
    extractions = {
        name: lambda records=records: write_records(model, token_id, window_start, tokens_per_batch, records, threads)
        for records, name in EXTRACTION.items()
    }
    batches = extracted_batches(model, extractions[EXTRACTION["exact"]])
    routers = find_routers(model.model)

    def forward(module, **options):
        def run():
            with torch.inference_mode():
                for batch in batches:
                    module(input_ids=batch, use_cache=False, **options)

        return run

    def stop(module, inputs, output):
        raise _Stop

    def stopped():
        hook = routers[max(routers)].register_forward_hook(stop)
        with torch.inference_mode():
            for batch in batches:
                try:
                    model.model(input_ids=batch, use_cache=False)
                except _Stop:
                    continue
        hook.remove()

    return {
        BATCH: forward(model),
        WITH_LOGITS: forward(model, output_router_logits=True),
        BARE: forward(model.model),
        STOPPED: stopped,
        **extractions,
    }


def compare(setup: Setup) -> list[Row]:
    """The rows of one comparison."""
    torch.set_num_threads(setup.threads)
    model = olmoe.build(setup.size, getattr(torch, setup.dtype))
    token_id, window_start = olmoe.documents(setup.size, **TOKENS[setup.size])
    runs = passes(model, token_id, window_start, TOKENS_PER_BATCH[setup.size])
    times = measuring.interleaved({name: runs[name] for name in setup.passes}, setup.rounds)
    label = f"{setup.size}, {setup.dtype}, {setup.threads} thread{'s'[: setup.threads - 1]}"
    ours, goals = times[EXTRACTION["exact"]], LIMITS.get(setup.size, {}) if setup.threads == 1 else {}
    rows = [
        measuring.judged(
            f"{label}: extraction / {name}", measuring.ratio(ours, times[name]), "x", at_most=goals.get(name)
        )
        for name in setup.passes
        if name not in EXTRACTION.values()
    ]
    if EXTRACTION["compact"] in times:
        compact = measuring.ratio(times[EXTRACTION["compact"]], times[BARE])
        rows.append(measuring.judged(f"{label}: extraction of compact records / {BARE}", compact, "x"))
    if STOPPED in times:
        recording = np.median(ours.processor - times[STOPPED].processor)
        per_record = recording / len(token_id) / model.config.num_hidden_layers
        what = f"{label}: processor time of recording and writing, per token and layer"
        rows.append(measuring.judged(what, 1e9 * per_record, "ns"))
    return rows


def rows() -> list[Row]:
    """All comparisons; the goals belong to one thread of torch, beside which the writer has a core of its own."""
    found = []
    for setup in SETUPS:
        measuring.say(f"extraction: {setup.size}, {setup.dtype}, {setup.threads} threads")
        found += compare(setup)
    torch.set_num_threads(1)
    return found


if __name__ == "__main__":
    print(measuring.table(rows()))
