"""Real studies that need the hub or a GPU are planned, not run."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def jobs(dry_run) -> dict[str, int]:
    """How many jobs of each rule a dry run would run, and their `total`."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", dry_run.stdout, flags=re.MULTILINE)}


def test_the_olmoe_study_fits_a_scheduler(workflow):
    dry = workflow.finish("--dry-run", configs=[ROOT / "config" / "olmoe.yaml"])
    planned = jobs(dry)
    assert planned["total"] < 2000
    assert planned["extract_routing"] == 12
    assert planned["fetch_model"] == 1 and planned["fetch_dataset"] == 12
    assert "train_model" not in planned
    assert not (workflow.folder / "results").exists()
    blocks = dict(re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", dry.stdout, flags=re.MULTILINE))
    asked = {name: re.search(r"mem_mb=(\d+)", blocks[name])[1] for name in ("tokenize_dataset", "build_browser")}
    # of 200,000 tokens of a dataset, and of all twelve
    assert asked == {"tokenize_dataset": str(2000 + 60 * 200_000 // 10**6), "build_browser": str(2000 + 170 * 24 // 10)}


@pytest.mark.parametrize(
    ("example", "checkpoints", "gpus"),
    [
        ("mixtral", 1, 2),
        ("qwen3_moe", 1, 1),
        ("deepseek_v2_lite", 1, 1),
        ("gpt_oss", 1, 1),
        ("olmoe_checkpoints", 5, 1),
    ],
)
def test_other_models_are_planned_on_the_same_datasets(workflow, example, checkpoints, gpus):
    overlays = [ROOT / "config" / "olmoe.yaml", ROOT / "config" / "examples" / f"{example}.yaml"]
    dry = workflow.finish("--dry-run", configs=overlays)
    planned = jobs(dry)
    assert planned["fetch_model"] == checkpoints
    assert planned["extract_routing"] == 12 * checkpoints
    assert planned["measure_router_decisiveness"] == checkpoints
    assert set(re.findall(r"gpu=([1-9])", dry.stdout)) == {str(gpus)}


def test_a_large_study_in_shards_is_planned(workflow):
    for name in range(10):
        (workflow.folder / f"model_{name}").mkdir()
    (workflow.folder / "rows.jsonl").touch()
    models = {f"m{name}": {"source": "local", "path": f"model_{name}"} for name in range(10)}
    limits = {"tokens": 80_000_000}
    datasets = {f"d{name}": {"source": "files", "files": ["rows.jsonl"], "limits": limits} for name in range(30)}
    study = {"title": "Large", "models": list(models), "datasets": list(datasets)}
    overlay = workflow.overlay("large.yaml", {"study": study, "models": models, "datasets": datasets})
    planned = jobs(workflow.finish("--dry-run", "--quiet", "rules", configs=[overlay]))
    assert planned["extract_routing"] == planned["tally_routing"] == 10 * 30 * 8
    assert planned["tokenize_dataset"] == planned["combine_tallies"] == 10 * 30
    assert planned["measure_maps"] == 10


def test_only_what_runs_experts_asks_for_a_gpu(workflow):
    dry = workflow.finish("--dry-run", configs=[ROOT / "config" / "olmoe.yaml"])
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", dry.stdout, flags=re.MULTILINE)
    asking = {name for name, text in blocks if re.search(r"gpu=[1-9]", text)}
    assert asking == {"extract_routing", "measure_maps", "measure_similarity"}


def test_the_default_study_is_planned_without_a_profile(workflow):
    dry = workflow.finish("--dry-run")
    planned = jobs(dry)
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    assert planned["extract_routing"] == 2 * len(config["study"]["datasets"])


def test_the_list_of_rules_is_a_table_of_contents(workflow):
    listed = workflow.finish("--list-rules").stdout
    for line in filter(None, listed.splitlines()):
        assert re.fullmatch(r"\w+ \(.{20,}\)", line), line
