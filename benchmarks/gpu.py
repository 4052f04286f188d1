"""Tokens per second of extraction on a GPU, with OLMoE-1B-7B's sizes and random weights made on the device.

python -m benchmarks.gpu                               on one GPU
python -m benchmarks.gpu --size tiny --device cpu      the same code in seconds
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import OlmoeForCausalLM

from benchmarks import analysis, extraction, measuring, olmoe
from benchmarks.measuring import Row
from gatebook.inputs.documents import load_tokens
from gatebook.routing import extraction as routing
from gatebook.routing import models, records
from gatebook.routing.families import routing_rule
from gatebook.study import counting

LIMIT = 100_000.0
BATCHES = 16
OURS = extraction.EXTRACTION["exact"]


def synchronised(run: Callable[[], object], device: str) -> Callable[[], None]:
    """`run`, finished only when the device is."""

    def wait():
        run()
        if device != "cpu":
            torch.cuda.synchronize()

    return wait


def matrix_rate(device: str, size: int) -> float:
    """Floating-point operations per second of bfloat16 products of square matrices: the arithmetic that can be had."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    times = measuring.interleaved({"product": synchronised(lambda: a @ b, device)}, rounds=10)
    return 2 * size**3 / float(np.median(times["product"].wall))


def speeds(
    model: OlmoeForCausalLM,
    size: str,
    device: str,
    tokens_per_batch: int,
    window: int,
    rounds: int,
    rate: float,
    threads: int,
) -> list[Row]:
    """Tokens per second of every pass, with its share of the arithmetic that the device can do."""
    tokens = BATCHES * tokens_per_batch
    token_id = np.random.default_rng(0).integers(1, olmoe.SIZES[size]["vocab_size"], tokens, dtype=np.int32)
    runs = extraction.passes(model, token_id, np.arange(0, tokens, window), tokens_per_batch, threads)
    times = measuring.interleaved({name: synchronised(run, device) for name, run in runs.items()}, rounds)
    found = []
    for name, each in times.items():
        reduced = name in (extraction.STOPPED, *extraction.EXTRACTION.values())
        head = name in (extraction.BATCH, extraction.WITH_LOGITS)
        speed = tokens / float(np.median(each.wall))
        share = speed * olmoe.operations_per_token(size, window, head=head, last_experts=not reduced) / rate
        goal = LIMIT if name == OURS and size == "full" else None
        what = f"{tokens_per_batch:,} tokens per batch: {name}"
        found.append(measuring.judged(what, speed, "tokens/s", at_least=goal))
        found.append(measuring.judged("- share of the measured matrix rate", 100 * share, "%"))
    for base in (extraction.BATCH, extraction.BARE, extraction.STOPPED):
        found.append(measuring.judged(f"- extraction / {base}", measuring.ratio(times[OURS], times[base]), "x"))
    return found


def floor_rows(size: str, window: int, rate: float) -> list[Row]:
    """The least operations per token, and the speed that they allow at the matrix rate of the device."""
    found = [measuring.judged("matrix rate, bfloat16", rate / 1e12, "TFLOP/s")]
    for name, wanted in (("forward pass", True), ("extraction", False)):
        operations = olmoe.operations_per_token(size, window, head=wanted, last_experts=wanted)
        found.append(measuring.judged(f"operations of the {name}, per token", operations / 1e9, "GFLOP"))
        found.append(measuring.judged("- at most", rate / operations, "tokens/s"))
    return found


def profile_table(run: Callable[[], None], device: str, lines: int) -> str:
    """What one run spends its time on: the operations that take the most time of the device."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as profiler:
        run()
    order = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=lines, max_name_column_width=80)


@contextmanager
def clocked(functions: dict[str, tuple[object, str]]) -> Iterator[dict[str, float]]:
    """Seconds spent in functions, (their module or class, their name), by label, all threads added up."""
    seconds, lock = dict.fromkeys(functions, 0.0), threading.Lock()

    def timed(label: str, function: Callable) -> Callable:
        def run(*given, **named):
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                with lock:
                    seconds[label] += time.perf_counter() - began

        return run

    kept = {label: getattr(*place) for label, place in functions.items()}
    for label, (owner, name) in functions.items():
        setattr(owner, name, timed(label, kept[label]))
    try:
        yield seconds
    finally:
        for label, (owner, name) in functions.items():
            setattr(owner, name, kept[label])


STEPS = {
    "waiting for batches to arrive": (routing.Arrival, "arrays"),
    "compressing": (records, "packed"),
    "tallying": (counting.Tally, "add"),
}
"""What the threads beside the model do."""


def study(model: OlmoeForCausalLM, device: str, tokens_per_batch: int, tokens: int, threads: int) -> list[Row]:
    """Seconds of a small study of two datasets of `tokens` tokens each, from the folder of a model to its chapters.

    `threads` compress while batches of at most `tokens_per_batch` tokens are computed on `device`.
    """
    found, size = [], analysis.Size(2 * tokens, 2, model.config.num_hidden_layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "model")
        options = {"dtype": "auto", "attention": "auto", "experts": "auto"}

        def timed(what: str, run: Callable[[], object]):
            began = time.perf_counter()
            done = run()
            found.append(measuring.judged(f"- {what}", time.perf_counter() - began, "s"))
            return done

        load = partial(models.load, folder / "model", device=torch.device(device), last_layer=None, **options)
        loaded = timed("loading the model", load)
        paths, _ = analysis.make_tokens(folder, size, model.config.vocab_size)
        tallies = []
        for path in paths:
            (made := folder / path.stem).mkdir()
            known, layers = load_tokens(path), sorted(models.find_routers(loaded))
            attrs = known.attrs | analysis.MODEL | {"routing_rule": routing_rule(loaded.config).as_json()}
            given = (made, loaded, layers, known["token_id"].values, np.flatnonzero(known["position"].values == 0))
            extract = partial(
                routing.write_records, *given, tokens_per_batch=tokens_per_batch, threads=threads,
                attrs=attrs, tally=partial(counting.Tally, known),
            )  # fmt: skip
            with clocked(STEPS) as seconds:
                timed(f"extraction of {path.stem}, records and tally written", synchronised(extract, device))
            found += [measuring.judged(f"  - {step}, all threads", spent, "s") for step, spent in seconds.items()]
            tallies.append(made / "tally.nc")
        timed("chapters that read tallies", lambda: analysis.measure_tallies(folder, tallies))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table of speeds, and the profile of extraction at the first batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="full", choices=olmoe.SIZES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens-per-batch", type=int, nargs="+", help="default: 16384 32768 65536; on the CPU 256")
    parser.add_argument("--window", type=int, help="tokens per window; default: 1024, on the CPU 64")
    parser.add_argument("--rounds", type=int, default=5)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads", type=int, default=max(1, cores - 1), help="that compress; default: all cores but 1"
    )
    options = parser.parse_args(arguments)
    cpu = options.device == "cpu"
    if not cpu and not torch.cuda.is_available():
        parser.exit(2, f"device {options.device}: no GPU is visible; --size tiny --device cpu runs the same code.\n")
    sizes = options.tokens_per_batch or ([256] if cpu else [16_384, 32_768, 65_536])
    window = options.window or (64 if cpu else 1024)
    torch.set_num_threads(1)
    measuring.say(f"{options.size} model on {'the CPU' if cpu else torch.cuda.get_device_name(options.device)}")
    experts = "eager" if cpu else "grouped_mm"
    model = olmoe.build(options.size, torch.bfloat16, options.device, experts)
    rate = matrix_rate(options.device, 256 if cpu else 8192)
    found = floor_rows(options.size, window, rate)
    for tokens_per_batch in sizes:
        measuring.say(f"{tokens_per_batch} tokens per batch")
        found += speeds(
            model, options.size, options.device, tokens_per_batch, window, options.rounds, rate, options.threads
        )
    measuring.say("a small study")
    found.append(Row("a study of two datasets, one after another", ""))
    found += study(model, options.device, sizes[0], 4 * sizes[0], options.threads)
    print(measuring.table(found), flush=True)
    tokens = np.ones(4 * sizes[0], dtype=np.int32)
    runs = extraction.passes(model, tokens, np.arange(0, len(tokens), window), sizes[0], options.threads)
    print("\nOne extraction of 4 batches, exact records:\n")
    print(profile_table(synchronised(runs[OURS], options.device), options.device, 20))


if __name__ == "__main__":
    main()
