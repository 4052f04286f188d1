"""The same outputs the way published scripts make them, written from their description, against ours.

The outputs are, for every layer, how many tokens select each expert, how many select it first, and the mean router
entropy. Three ways are compared: per-token counters (one document at a time, all experts sorted, lists written as JSON
lines, read again and counted token by token), row-wise data frames (one row per token, layer and selected expert), and
one forward pass per layer. The first two are timed from the router logits on, the forward pass is not; ours is timed
from the records on, because extraction writes them, and once more with the processor time of recording them.
"""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
import torch
from transformers import OlmoeForCausalLM

from benchmarks import extraction as passes
from benchmarks import measuring, olmoe
from benchmarks.measuring import Row
from gatebook.files import netcdf
from gatebook.routing import extraction
from gatebook.routing.families import routing_rule
from gatebook.routing.following import complete
from gatebook.routing.records import layer_files
from gatebook.routing.routers import find_routers
from gatebook.routing.rule import routing_rule_of

LIMIT = 20.0
SIZE, TOKENS_PER_BATCH, TOKENS_PER_BLOCK = "tiny", 4096, 16_384
TOKENS = {"tokens": 60_000, "typical": 300, "longest": 1024}
PUBLISHED_TOKENS = 10_000
"""Python loops see only so many tokens; all times are per token and layer."""


@dataclass(frozen=True)
class Outputs:
    """selected, first (layer, expert) int64: tokens that select an expert, and first; entropy (layer,): mean, nats."""

    selected: np.ndarray
    first: np.ndarray
    entropy: np.ndarray


def from_records(folder: Path) -> Outputs:
    """Our way: count the selected experts of records; their entropies are read or, in full records, computed."""
    parts = []
    for path in layer_files(folder).values():
        with netcdf.open_lazily(path) as record:
            experts, tokens = record.sizes["expert"], record.sizes["token"]
            rule, names = routing_rule_of(record.attrs), ["selected_expert"]
            names.append("entropy" if "entropy" in record else "router_logits")
            selected, first, entropy = np.zeros(experts, dtype=np.int64), np.zeros(experts, dtype=np.int64), 0.0
            for start in range(0, tokens, TOKENS_PER_BLOCK):
                block = {name: record[name][start : start + TOKENS_PER_BLOCK].values for name in names}
                selected += np.bincount(block["selected_expert"].ravel(), minlength=experts)
                first += np.bincount(block["selected_expert"][:, 0], minlength=experts)
                whole = block if "entropy" in block else complete(block, rule)
                entropy += whole["entropy"].sum(dtype=np.float64)
            parts.append((selected, first, entropy / tokens))
    return Outputs(*(np.stack(values) for values in zip(*parts, strict=True)))


def from_counters(documents: list[np.ndarray], top_k: int, path: Path) -> Outputs:
    """Per-token counters by way of JSON lines in `path`; `documents` are router logits (layer, token, expert)."""
    with path.open("w") as file:
        for logits in documents:
            selected = [np.argsort(-layer, axis=-1)[:, :top_k].tolist() for layer in logits]
            file.write(json.dumps({"selected": selected, "entropy": _entropy(logits).tolist()}) + "\n")
    layers, _, experts = documents[0].shape
    selected, first = ([Counter() for _ in range(layers)] for _ in range(2))
    entropy, tokens = np.zeros(layers), 0
    with path.open() as file:
        for line in file:
            document = json.loads(line)
            for layer, choices in enumerate(document["selected"]):
                for choice in choices:
                    first[layer][choice[0]] += 1
                    for expert in choice:
                        selected[layer][expert] += 1
                entropy[layer] += sum(document["entropy"][layer])
            tokens += len(document["selected"][0])

    def table(counters: list[Counter]) -> np.ndarray:
        return np.array([[counter[expert] for expert in range(experts)] for counter in counters])

    return Outputs(table(selected), table(first), entropy / tokens)


def from_data_frame(documents: list[np.ndarray], top_k: int) -> Outputs:
    """One row per token, layer and selected expert, then groups; `documents` as in `from_counters`."""
    rows = []
    for number, logits in enumerate(documents):
        best = np.argsort(-logits, axis=-1)[..., :top_k]
        entropy = _entropy(logits)
        for layer in range(logits.shape[0]):
            for token in range(logits.shape[1]):
                for rank in range(top_k):
                    rows.append(
                        {
                            "document": number,
                            "layer": layer,
                            "token": token,
                            "rank": rank,
                            "expert": best[layer, token, rank],
                            "entropy": entropy[layer, token],
                        }
                    )
    frame = pd.DataFrame(rows)
    experts = range(documents[0].shape[-1])

    def counts(part: pd.DataFrame) -> np.ndarray:
        table = part.groupby(["layer", "expert"]).size().unstack(fill_value=0)
        return table.reindex(columns=experts, fill_value=0).to_numpy()

    leading = frame[frame["rank"] == 0]
    return Outputs(counts(frame), counts(leading), leading.groupby("layer")["entropy"].mean().to_numpy())


def layer_by_layer(model: OlmoeForCausalLM, batches: list[torch.Tensor]) -> dict[int, list[torch.Tensor]]:
    """Router logits by layer, one batch after another, from one whole forward pass for each layer."""
    kept = {}
    for layer, router in find_routers(model.model).items():
        found = kept[layer] = []
        hook = router.register_forward_hook(lambda module, inputs, output, found=found: found.append(output[0]))
        with torch.inference_mode():
            for batch in batches:
                model(input_ids=batch, use_cache=False)
        hook.remove()
    return kept


def logits_of_documents(folder: Path, starts: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Router logits (layer, token, expert) float32 of the documents within the first `tokens` tokens of records."""
    layers = []
    for path in layer_files(folder).values():
        with netcdf.open_lazily(path) as record:
            layers.append(record["router_logits"][:tokens].values)
    return np.split(np.stack(layers), starts[(starts > 0) & (starts < tokens)], axis=1)


def write(folder: Path, model: OlmoeForCausalLM, token_id: np.ndarray, starts: np.ndarray, records: str) -> Path:
    """Write the records of all layers into a new folder below `folder`, and return it."""
    made = folder / records
    made.mkdir()
    layers = sorted(find_routers(model.model))
    attrs = {"routing_rule": routing_rule(model.config).as_json()}
    options = {"tokens_per_batch": TOKENS_PER_BATCH, "records": records, "attrs": attrs}
    extraction.write_records(made, model.model, layers, token_id, starts, **options)
    return made


def postprocessing_rows() -> list[Row]:
    """Time per token and layer of counters, data frames and ours."""
    model = olmoe.build(SIZE, torch.float32)
    token_id, starts = olmoe.documents(SIZE, **TOKENS)
    top_k, layers = model.config.num_experts_per_tok, model.config.num_hidden_layers
    runs = passes.passes(model, token_id, starts, TOKENS_PER_BATCH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact, compact = (write(folder, model, token_id, starts, records) for records in ("exact", "compact"))
        documents = logits_of_documents(exact, starts, PUBLISHED_TOKENS)
        ours = {"exact": lambda: from_records(exact), "compact": lambda: from_records(compact)}
        theirs = {
            "per-token counters": lambda: from_counters(documents, top_k, folder / "lines.jsonl"),
            "row-wise data frames": lambda: from_data_frame(documents, top_k),
        }
        recording = {name: runs[name] for name in (passes.STOPPED, *passes.EXTRACTION.values())}
        times = measuring.interleaved(ours | theirs | recording, rounds=3)
    count, found, own = len(token_id) * layers, [], {}
    for kind in ours:
        spent = times[passes.EXTRACTION[kind]].processor - times[passes.STOPPED].processor
        own[f"ours, from {kind} records"] = times[kind].wall / count
        own[f"ours, recording included, {kind} records"] = (times[kind].wall + spent) / count
    for name, seconds in own.items():
        found.append(measuring.judged(f"{name}: per token and layer", 1e9 * np.median(seconds), "ns"))
    for way in theirs:
        seconds = times[way].wall / (PUBLISHED_TOKENS * layers)
        found.append(measuring.judged(f"{way}: per token and layer", 1e9 * np.median(seconds), "ns"))
        for name, base in own.items():
            goal = None if "included" in name else LIMIT
            found.append(measuring.judged(f"- / {name}", np.median(seconds / base), "x", at_least=goal))
    return found


def forward_rows() -> list[Row]:
    """One forward pass per layer against extraction of all layers, for the model of the embedded study."""
    model = olmoe.build("demo", torch.float32)
    token_id, starts = olmoe.documents("demo", **passes.TOKENS["demo"])
    runs = passes.passes(model, token_id, starts, passes.TOKENS_PER_BATCH["demo"])
    ours = passes.EXTRACTION["exact"]
    batches = passes.extracted_batches(model, runs[ours])
    times = measuring.interleaved({"theirs": lambda: layer_by_layer(model, batches), ours: runs[ours]}, rounds=5)
    what = "one forward pass per layer / extraction, demo, float32, 1 thread"
    return [measuring.judged(what, measuring.ratio(times["theirs"], times[ours]), "x")]


def rows() -> list[Row]:
    """All comparisons, with one thread."""
    torch.set_num_threads(1)
    measuring.say("published: counters and data frames")
    found = postprocessing_rows()
    measuring.say("published: one forward pass per layer")
    return found + forward_rows()


def _entropy(logits: np.ndarray) -> np.ndarray:
    return scipy.stats.entropy(scipy.special.softmax(logits, axis=-1), axis=-1)


if __name__ == "__main__":
    print(measuring.table(rows()))
