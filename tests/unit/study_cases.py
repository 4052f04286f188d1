"""Whole made-up studies: all that chapters read, as the workflow writes it, and their jobs, run one after another."""

import os
import runpy
from collections.abc import Callable
from contextlib import chdir
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
import xarray as xr
import yaml
from routing_cases import Case, case, even_case, random_case, records
from vocabulary_cases import vocabulary_case

from gatebook import lists
from gatebook.files import netcdf
from gatebook.inputs.demo import evaluation
from gatebook.inputs.demo.training import Losses
from gatebook.inputs.tasks.base import Pair
from gatebook.run import alone
from gatebook.study import pairs

MODEL, CHECKPOINTS, BETWEEN, TASK = "demo", ("step0", "step9"), "step4", "operator"
"""Those with records, and one of training of which only the experts that tokens select are known."""
CHAPTERS = lists.known_chapters(lists.ROOT)
RUNNING = {name for name, each in CHAPTERS.items() if "model" in each.needs and each.reads != "sample"}
WITHOUT = ("divided", "whole")
"""Chapters that run the model on texts, and the studies without them, whose model is that of the others."""
EXPERTS, HIDDEN, SAMPLED = 8, 16, 40
"""Experts and hidden size are those of the tiny OLMoE, whose files the chapters on the model read."""
FEWER = {
    "statistics": {"resamples": 100, "fewest_clusters": 2},
    "domain_specialization": {"permutations": 100},
    "agreement": {"runs": [MODEL, f"{MODEL}/{CHECKPOINTS[0]}"], "alternatives": [], "draws": 100},
    "similarity": {"permutations": 100},
    "maps": {"points": 60},
    "factors": {"tokens": 60, "number": 6, "passes": 2, "examples": 2},
    "annotation": {"pairs": 3, "permutations": 1, "examples": 3, "named": 2, "listed": 4, "written": 2},
    "meaning": {"permutations": 19, "told_permutations": 19, "splits": 2},
    "reach": {"tokens": 40, "lengths": [1, 2, 4], "windows": 3},
    "logit_lens": {"windows": 3, "fitted_windows": 2, "removal_windows": 2},
    "expert_retention": {"random": 2, "length": 8},
    "interventions": {"documents": 3, "length": 8, "asked": [{"name": "one", "dataset": "python", "layer": 1}]},
    "steering": {"pairs": [["python", "cpp"]], "random": 3, "priced": 1, "documents": 3, "length": 8, "prompts": 4}
    | {"choosing": 1, "prompt": 4, "tokens": 3, "doses": [1, 2]},
    "multiple_choice": {"items": 3, "calibration_items": 2, "close_items": 2, "context": 4, "answer": 2, "flips": 100},
    "expert_circuits": {"sizes": [1, 4], "random": 3, "random_sizes": [1], "others": 3, "edges": 5, "random_edges": 5},
    "attention_heads": {"sequences": 8, "length": 6},
    "token_overlap": {"rarefied_tokens": 20},
    "evolution": {"permutations": 2},
    "expert_ablation": {"clusters": 4, "tested_clusters": 2, "untrained_clusters": 2, "splits": 4, "permutations": 20},
    "activation_patching": {"top": 2, "random_sets": 2, "scrambles": 1, "steps": 2, "permutations": 20},
    "paths": {"minimum_occurrences": 5},
    "placement": {"batch_tokens": 50, "devices": [8, 4]},
}
"""Settings that make the jobs short."""


def ordinary() -> dict[str, dict[str, Case]]:
    """Two datasets and two layers; k is 3, and routing depends on the token, more so after training."""
    rng = np.random.default_rng(0)
    return {
        checkpoint: {
            name: vocabulary_case(rng, lengths, strength, experts=EXPERTS, top_k=3)
            for name, lengths in {"python": [17, 30, 9, 24, 12, 21, 28, 15, 11, 26], "cpp": [22, 14, 33, 19]}.items()
        }
        for checkpoint, strength in zip(CHECKPOINTS, (0.3, 2.0), strict=True)
    }


def collapsed() -> dict[str, dict[str, Case]]:
    """One dataset and one layer, and k is 1: perfectly even before training, all tokens to one expert after it."""
    lengths, rng = [16, 24, 8, 16, 32, 24], np.random.default_rng(1)
    even = even_case(EXPERTS, 1, lengths)
    one = records(np.tile(20.0 * (np.arange(EXPERTS) == 3), (sum(lengths), 1)), 1)
    token_id = rng.integers(0, 12, sum(lengths))
    made = {"step0": even.layers[0], "step9": one}
    return {name: {"python": case({3: layer}, lengths, token_id)} for name, layer in made.items()}


def divided() -> dict[str, dict[str, Case]]:
    """Three datasets and two layers; before training the token alone decides, after it the dataset alone."""
    rng, made = np.random.default_rng(2), {name: {} for name in CHECKPOINTS}
    for number, name in enumerate(("python", "cpp", "web")):
        lengths = rng.integers(12, 40, 8).tolist()
        token_id = rng.integers(0, 12, sum(lengths))
        first = {"step0": token_id % EXPERTS, "step9": np.full(len(token_id), 2 * number)}
        for checkpoint, expert in first.items():
            logits = 30.0 * (np.arange(EXPERTS) == expert[:, None])
            logits += 20.0 * (np.arange(EXPERTS) == (expert[:, None] + 1) % EXPERTS)
            made[checkpoint][name] = case({layer: records(logits, 2) for layer in (1, 3)}, lengths, token_id)
    return made


def whole() -> dict[str, dict[str, Case]]:
    """Two datasets and one layer; every token selects all experts."""
    rng = np.random.default_rng(3)
    return {
        checkpoint: {
            name: random_case(rng, [9, 14, 26, 11, 30], EXPERTS, EXPERTS, layers=(2,)) for name in ("python", "cpp")
        }
        for checkpoint in CHECKPOINTS
    }


STUDIES: dict[str, Callable[[], dict[str, dict[str, Case]]]] = {
    made.__name__: made for made in (ordinary, collapsed, divided, whole)
}


def training(trained: float, documents: int = 30) -> xr.Dataset:
    """A training record of two domains in which the last checkpoint loses about `trained` nats per token."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 2 * documents)
    noise = rng.normal(0, 0.1, (2, 2 * documents))
    sums = np.stack([6.0 + noise[0], trained + noise[1]]) * tokens
    names = [f"{number}" for number in range(2 * documents)]
    domains = ["a"] * documents + ["b"] * documents
    record = evaluation.dataset(
        [evaluation.HeldOut(domain, name, name, np.array([])) for domain, name in zip(domains, names, strict=True)],
        dict(zip(CHECKPOINTS, sums, strict=True)),
        4.0 * tokens,
        tokens,
        [Losses(loss, 1.0, 1.0) for loss in np.linspace(6, trained, 5)],
        pd.DataFrame({"documents": documents, "clusters": [31, 40], "overlap": [0.02, 0.3]}, index=["a", "b"]),
    )
    return record.assign_attrs(weights_sha256='{"step0": "0", "step9": "9"}', settings="{}")


def write(folder: Path, study: dict[str, dict[str, Case]], model: Path) -> None:
    """What the jobs of all chapters read, below `folder`/results, and the overlay study.yaml."""
    results = folder / "results"
    (results / "demo/checkpoints" / MODEL).mkdir(parents=True)
    for checkpoint in (*study, BETWEEN):
        (results / "demo/checkpoints" / MODEL / checkpoint).symlink_to(model)
    for checkpoint, datasets in study.items():
        for number, (name, made) in enumerate(datasets.items()):
            attrs = {"dataset": name, "dataset_id": name, "dataset_sha256": f"files of {name}"}
            attrs |= {"tokens_sha256": f"sum of {name}"}
            places = {"document_index": ("token", made.owner.astype(np.int32))}
            netcdf.save(made.tokens.assign(places).assign_attrs(attrs), results / f"inputs/{MODEL}/{name}.nc")
            attrs |= {"model": MODEL, "model_id": "made up", "checkpoint": checkpoint, "weights_sha256": checkpoint}
            _write_records(results / f"routing/{MODEL}/{checkpoint}/{name}", made, number, attrs)
        described = results / f"inputs/{MODEL}/checkpoints/{checkpoint}.json"
        described.parent.mkdir(exist_ok=True)
        described.write_text('{"moe_layers": [0, 1, 2, 3, 4]}')
    _write_selections(results / f"selections/{MODEL}/{BETWEEN}.nc", study)
    _write_pairs(results / f"tasks/{MODEL}/{TASK}.nc", model)
    (results / "demo/tokenizer").symlink_to(model)
    netcdf.save(training(3.0), results / f"demo/training/{MODEL}.nc")
    overlay = {
        "study": {"datasets": list(study["step0"]), "tasks": [TASK]},
        "models": {MODEL: {"checkpoints": list(CHECKPOINTS), "training_checkpoints": "all"}},
        "demo": {"training": {"steps": 9, "checkpoints": [0, 4, 9]}},
        "compare": [f"{MODEL}/{checkpoint}" for checkpoint in CHECKPOINTS],
        "chapters": [name for name in CHAPTERS if folder.name not in WITHOUT or name not in RUNNING],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(overlay | FEWER), encoding="utf-8")


def _write_selections(path: Path, study: dict[str, dict[str, Case]]) -> None:
    """What tokens select at the checkpoint between: every second one as at the first, the others as at the last."""
    first, last = (list(study[checkpoint].values()) for checkpoint in CHECKPOINTS)
    layers = list(last[0].layers)
    selected = [
        [np.concatenate([made.layers[layer]["selected_expert"].values for made in of]) for layer in layers]
        for of in (first, last)
    ]
    token = np.arange(len(selected[0][0]))
    made = {"selected_expert": (("layer", "token", "rank"), np.where(token[:, None] % 2, *selected))}
    attrs = {"experts": EXPERTS, "weights_sha256": BETWEEN}
    netcdf.save(xr.Dataset(made, coords={"layer": layers, "token": token}, attrs=attrs), path)


@torch.inference_mode()
def _write_pairs(path: Path, folder: Path) -> None:
    """Pairs of made-up prompts, two of each source, with the answers that the model itself tells apart best."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(3, model.config.vocab_size, (2, 12, 6), generator=torch.Generator().manual_seed(1))
    ids[1, :, :3] = ids[0, :, :3]
    clean, corrupt = (model(input_ids=each).logits[:, -1] for each in ids)
    found = []
    for number in range(12):
        ways = [one[number][:, None] - one[number][None] for one in (clean, corrupt)]
        best = int(torch.minimum(ways[0], -ways[1]).argmax())
        prompts = [one[number].tolist() for one in ids]
        found.append(Pair(*prompts, *divmod(best, clean.shape[1]), f"source {number // 2}"))
    pairs.write(pairs.of_list(found), path, {"task": TASK, "title": "made-up prompts"})


def _write_records(folder: Path, made: Case, number: int, attrs: dict) -> None:
    """Records, predictions and sampled router inputs of a dataset; the inputs are nearly equal within a dataset."""
    rng = np.random.default_rng(number)
    for layer, one in made.layers.items():
        netcdf.save(one.assign_attrs(attrs, layer=layer), folder / f"layer_{layer}.nc")
    predicted = np.roll(made.token_id, -1).astype(np.int32)
    netcdf.save(xr.Dataset({"predicted_token": ("token", predicted)}), folder / "predictions.nc")
    places = np.sort(rng.choice(len(predicted), min(SAMPLED, len(predicted)), replace=False))
    attrs |= {"routing_rule": one.attrs["routing_rule"]}
    states = 3 * rng.standard_normal(HIDDEN) + 0.5 * rng.standard_normal((len(made.layers), len(places), HIDDEN))
    sample = {"state": (("layer", "sample", "hidden"), states.astype(np.float32)), "sampled_token": ("sample", places)}
    netcdf.save(xr.Dataset(sample, coords={"layer": list(made.layers)}, attrs=attrs), folder / "states.nc")


def run_jobs(folder: Path) -> None:
    """Tally the records and measure the chapters that a written study has, each by its own rule and script."""
    with alone.read_workflow(folder, [folder / "study.yaml"]) as workflow:
        jobs = [
            alone.job(workflow, "tally_routing", {"model": MODEL, "checkpoint": checkpoint, "part": name})
            for checkpoint in CHECKPOINTS
            for name in workflow.globals["study"].datasets
        ]
        known = workflow.globals["CHAPTERS"].keys() - workflow.globals["left_out"](MODEL)
        if "expert_ablation" in known:
            jobs += [
                alone.job(workflow, "scan_ablation", {"model": MODEL, "checkpoint": checkpoint})
                for checkpoint in CHECKPOINTS
            ]
        if "factors" in known:
            jobs += [
                alone.job(workflow, "sample_states", {"model": MODEL, "checkpoint": checkpoint})
                for checkpoint in CHECKPOINTS
            ]
        if "annotation" in known:
            jobs.append(alone.job(workflow, "name_experts", {"model": MODEL, "checkpoint": CHECKPOINTS[-1]}))
        before = {name: known & {*CHAPTERS[name].chapters, *CHAPTERS[name].beside} for name in sorted(known)}
        for name in TopologicalSorter(before).static_order():
            jobs += [alone.job(workflow, f"measure_{name}", wildcards) for wildcards in places(name)]
    with chdir(folder):
        for script, snakemake in jobs:
            for path in (*snakemake.output, *snakemake.log):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            runpy.run_path(os.fspath(script), {"snakemake": snakemake}, run_name="__main__")


def places(name: str) -> list[dict[str, str]]:
    """The wildcards of the jobs that measure a chapter, by its scope; the untrained checkpoint comes first."""
    return {
        "checkpoint": [{"model": MODEL, "checkpoint": checkpoint} for checkpoint in CHECKPOINTS],
        "model": [{"model": MODEL}],
        "runs": [{}],
    }[CHAPTERS[name].scope]


def metrics_file(folder: Path, name: str, checkpoint: str = CHECKPOINTS[-1], kind: str = "metrics") -> Path:
    """The path of a chapter's metrics, or of another kind of result, by its scope."""
    of = {"checkpoint": f"{MODEL}/{checkpoint}", "model": MODEL, "runs": "runs"}[CHAPTERS[name].scope]
    return folder / "results" / kind / of / f"{name}.nc"
