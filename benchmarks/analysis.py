"""Time and memory of the analysis of a synthetic study on one core, the scripts as the workflow runs them.

A study has the sizes of OLMoE-1B-7B: 64 experts, top 8, a vocabulary of 50,000, exact records of bfloat16 logits. The
frequencies of token ids follow Zipf's law, and logits are the sum of what the token id, the document and the dataset
prefer, and noise.
"""

import inspect
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
import xarray as xr
import yaml

from benchmarks import measuring, olmoe
from benchmarks.measuring import Row, Usage
from gatebook import lists
from gatebook.files import checksums, netcdf, parts
from gatebook.inputs.clusters import groups
from gatebook.inputs.documents import load_tokens
from gatebook.routing import records
from gatebook.routing.rule import RoutingRule
from gatebook.run import configuration

RULE, TYPES = RoutingRule("olmoe", experts=64, top_k=8, normalised=False), 50_000
TALLY = "tally_routing"
READS = ("tallies", "tokens")
"""What a chapter of this benchmark may read: chapters that need a model or its training are left out."""
CHAPTERS = {
    name: chapter
    for name, chapter in lists.known_chapters(measuring.ROOT).items()
    if chapter.reads in READS and "model" not in chapter.needs and chapter.scope == "checkpoint"
}
MODULES = {TALLY: ("netCDF4", "gatebook.study.counting")} | {
    f"measure_{name}": ("netCDF4", "transformers", f"gatebook.chapters.{name}.measure") for name in CHAPTERS
}
"""The modules that each script imports, which is done before it is measured."""
WHOLE = {"place": parts.place_of("a dataset in one piece")}
SECONDS, PEAK = 120.0, 2000.0
"""Goals: seconds of all jobs of `STUDY` and MB of the largest one."""


@dataclass(frozen=True)
class Size:
    """The size of a study."""

    tokens: int
    datasets: int
    layers: int


RUN = "random/random"
"""Model and checkpoint of a study, as in the paths of the workflow."""
MODEL = {
    "model": "random",
    "checkpoint": "random",
    "model_id": "random",
    "model_revision": "local",
    "weights_sha256": 64 * "0",
}
STUDY = Size(1_000_000, 12, 16)


def make_tokens(folder: Path, size: Size, types: int = TYPES) -> tuple[list[Path], list[np.ndarray]]:
    """Write the token files of a study's datasets, with ids below `types`; and the tokens of each document."""
    rng, count = np.random.default_rng(0), size.tokens // size.datasets
    frequency = 1 / np.arange(1, types + 1)
    _, starts = olmoe.documents("tiny", count, typical=300, longest=2048)
    lengths = np.diff(np.append(starts, count))
    document = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    paths = [folder / f"dataset_{number}.nc" for number in range(size.datasets)]
    for path in paths:
        token_id = rng.choice(types, count, p=frequency / frequency.sum()).astype(np.int32)
        attrs = {"dataset": path.stem, "tokens_sha256": checksums.array_sha256(token_id), "window": 2048}
        attrs |= {"model": "random", "dataset_id": "random", "dataset_revision": "local", "documents_left_out": 0}
        attrs |= {"dataset_sha256": attrs["tokens_sha256"], "dataset_bytes": token_id.nbytes}
        _write_tokens(path, token_id, document, lengths, attrs)
    return paths, lengths


def make_study(folder: Path, size: Size) -> tuple[list[Path], list[Path]]:
    """Write the token files and the folders of records, with predictions, of a study's datasets."""
    tokens, lengths = make_tokens(folder, size)
    rng, count = np.random.default_rng(1), size.tokens // size.datasets
    of_type = rng.standard_normal((size.layers, TYPES, RULE.experts), dtype=np.float32)
    document, routing = np.repeat(np.arange(len(lengths)), lengths), []
    for path in tokens:
        routing.append(folder / path.stem)
        known = load_tokens(path)
        token_id, predicted = known["token_id"].values, rng.permutation(known["token_id"].values)
        routing[-1].mkdir()
        netcdf.save(xr.Dataset({"predicted_token": ("token", predicted)}), routing[-1] / "predictions.nc")
        attrs = known.attrs | MODEL | {"routing_rule": RULE.as_json()}
        options = {"tokens": count, "windows": len(lengths), "contents": "exact", "attrs": attrs, "threads": 2}
        for layer in range(size.layers):
            preferred = 0.5 * rng.standard_normal((1 + len(lengths), RULE.experts), dtype=np.float32)
            logits = rng.standard_normal((count, RULE.experts), dtype=np.float32)
            logits += of_type[layer][token_id] + preferred[document] + preferred[-1]
            rounded = torch.from_numpy(logits).bfloat16()
            selected = RULE.select(rounded).numpy().astype(np.uint8)
            values = {"router_logits": rounded.float().numpy()[None], "selected_expert": selected[None]}
            made = records.Records(np.arange(count), np.arange(len(lengths)), values, {})
            with records.RecordWriter(routing[-1], RULE, [layer], **options) as writer:
                writer.write(lambda made=made: made)
    return tokens, routing


def _write_tokens(path: Path, token_id: np.ndarray, document: np.ndarray, lengths: np.ndarray, attrs: dict) -> None:
    position = np.arange(len(token_id)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    names = np.array([f"{path.stem}, document {index}" for index in range(len(lengths))], dtype=object)
    values = {
        "token_id": ("token", token_id),
        "document_index": ("token", document),
        "position": ("token", position.astype(np.int32)),
        "text": ("document", np.full(len(lengths), "", dtype=object)),
        "document_tokens": ("document", lengths.astype(np.int32)),
        "row": ("document", np.arange(len(lengths))),
    }
    of_documents = {"document_id": names, "cluster": names, "group": groups(names)}
    coords = {name: ("document", part) for name, part in of_documents.items()}
    netcdf.save(xr.Dataset(values, coords, attrs), path)


def make_tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer of `TYPES` tokens."""
    words = tokenizers.models.WordLevel({f"word{number}": number for number in range(TYPES)}, unk_token="word0")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words)).save_pretrained(folder)
    return folder


def analyse(folder: Path, size: Size, config: dict) -> dict[str, list[Usage]]:
    """Time and memory of the jobs on a new study, by the name of their script; the tally has a job for each dataset."""
    tokens, routing = make_study(folder, size)
    tallies = [folder / f"tally_{number}.nc" for number in range(size.datasets)]
    of_tallies = {"tallies": tallies}
    of_records = of_tallies | {"tokens": tokens, "records": routing, "tokenizer": make_tokenizer(folder / "tokenizer")}
    usages = {
        TALLY: [
            measuring.run_job(TALLY, MODULES[TALLY], {"tokens": one, "records": made}, {"tally": tally}, WHOLE)
            for one, made, tally in zip(tokens, routing, tallies, strict=True)
        ]
    }
    for name, chapter in CHAPTERS.items():
        given = {"tallies": of_tallies, "tokens": of_records}[chapter.reads]
        usages[f"measure_{name}"] = [measure(folder, name, given, config)]
    return usages


def measure(folder: Path, name: str, given: dict, config: dict) -> Usage:
    """Run the script of a chapter on the `given` files of a study."""
    kinds = {"metrics": "nc", "draws": "nc", "table": "csv", "location": "json"}  # the last one is that of placement
    output = {kind: folder / kind / RUN / f"{name}.{ending}" for kind, ending in kinds.items()}
    script = f"measure_{name}"
    return measuring.run_job(script, MODULES[script], given | {"untrained": []}, output, params(name, config))


def measure_tallies(folder: Path, tallies: list[Path]) -> None:
    """Run the chapters that read nothing but tallies, with the settings of the embedded study."""
    config = whole_config()
    for name, chapter in CHAPTERS.items():
        if chapter.reads == "tallies":
            measure(folder, name, {"tallies": tallies}, config)


def params(name: str, config: dict) -> dict:
    """The settings of a chapter's measures, as its rule gives them."""
    wanted = inspect.signature(import_module(f"gatebook.chapters.{name}.measure").measure).parameters
    statistics = {key: value for key, value in config["statistics"].items() if key in wanted}
    settings = {key: value for key, value in config.get(name, {}).items() if key != "thresholds"}
    fewest = config["statistics"]["fewest_clusters"]
    model = {"trust_remote_code": False}
    return {"statistics": statistics, "fewest_clusters": fewest, "settings": settings, "model": model}


def whole_config() -> dict:
    """The config of the embedded study with the defaults of all chapters."""
    files = ("config.yaml", "schemas/config.schema.yaml")
    config, schema = (yaml.safe_load((measuring.ROOT / "config" / file).read_text()) for file in files)
    return configuration.check(config, configuration.with_chapters(schema, lists.known_chapters(measuring.ROOT)))


def rows() -> list[Row]:
    """Seconds and memory of a whole study by job."""
    config = whole_config()
    measuring.say(f"analysis: {STUDY}")
    with tempfile.TemporaryDirectory() as folder:
        return whole(analyse(Path(folder), STUDY, config))


def whole(usages: dict[str, list[Usage]]) -> list[Row]:
    """Seconds and peak memory of every kind of job of a study, and of all together."""
    found = []
    for script, jobs in usages.items():
        many = f", {len(jobs)} jobs" if len(jobs) > 1 else ""
        found.append(measuring.judged(f"{script}{many}", sum(job.seconds for job in jobs), "s"))
        found.append(measuring.judged("- peak memory", max(job.peak for job in jobs) / 1e6, "MB"))
    together = [job for jobs in usages.values() for job in jobs]
    seconds, processor, imports = (
        sum(getattr(job, name) for job in together) for name in ("seconds", "processor", "imports")
    )
    found.append(measuring.judged("analysis of a study, one core", seconds, "s", at_most=SECONDS))
    found.append(measuring.judged("- processor time", processor, "s"))
    found.append(measuring.judged("- imports, not included", imports, "s"))
    found.append(measuring.judged("- peak memory", max(job.peak for job in together) / 1e6, "MB", at_most=PEAK))
    return found


if __name__ == "__main__":
    print(measuring.table(rows()))
