"""Real studies that need the hub or a GPU are planned, not run."""

import re
import subprocess

import pytest
import yaml
from studies import ROOT, planned


@pytest.fixture(scope="module")
def olmoe(new_workflow):
    """A dry run of the study of OLMoE-1B-7B, its jobs, and what it prints of a job of each rule."""
    workflow = new_workflow("olmoe")
    dry = workflow.finish("--dry-run", configs=[ROOT / "config/olmoe.yaml"])
    assert not (workflow.folder / "results").exists()
    blocks = dict(re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", dry.stdout, flags=re.MULTILINE))
    return planned(dry), blocks


def test_the_olmoe_study_fits_a_scheduler(olmoe):
    jobs, blocks = olmoe
    assert sum(jobs.values()) < 2000
    assert jobs["extract_routing"] == 12
    assert jobs["fetch_model"] == 1 and jobs["fetch_dataset"] == 12
    assert "train_model" not in jobs
    asked = {name: re.search(r"mem_mb=(\d+)", blocks[name])[1] for name in ("tokenize_dataset", "build_browser")}
    # of 200,000 tokens of a dataset, and of all twelve
    assert asked == {"tokenize_dataset": str(2000 + 60 * 200_000 // 10**6), "build_browser": str(2000 + 170 * 24 // 10)}


def test_only_what_runs_experts_asks_for_a_gpu(olmoe):
    jobs, blocks = olmoe
    assert blocks.keys() - {"all"} == jobs.keys()
    asking = {name for name, text in blocks.items() if re.search(r"gpu=[1-9]", text)}
    chapters = {"attention_heads", "expert_retention", "logit_lens", "maps", "meaning", "multiple_choice", "reach"}
    chapters |= {"similarity"}
    models = {"extract_routing", "name_experts", "sample_states", "scan_ablation"}
    assert asking == models | {f"measure_{name}" for name in chapters}


@pytest.mark.parametrize(
    ("example", "checkpoints", "others", "gpus"),
    [
        ("mixtral", 1, 0, 2),
        ("qwen3_moe", 1, 0, 1),
        ("deepseek_v2_lite", 1, 0, 1),
        ("gpt_oss", 1, 0, 1),
        ("olmoe_checkpoints", 2, 3, 1),
    ],
)
def test_other_models_are_planned_on_the_same_datasets(workflow, example, checkpoints, others, gpus):
    overlays = [ROOT / "config" / "olmoe.yaml", ROOT / "config" / "examples" / f"{example}.yaml"]
    dry = workflow.finish("--dry-run", configs=overlays)
    jobs = planned(dry)
    assert jobs["fetch_model"] == checkpoints + others
    assert jobs.get("select_experts", 0) == others and jobs.get("measure_evolution", 0) == (others > 0)
    assert jobs["extract_routing"] == 12 * checkpoints
    assert jobs["measure_router_decisiveness"] == checkpoints
    assert set(re.findall(r"gpu=([1-9])", dry.stdout)) == {str(gpus)}


def test_mathematics_code_and_text_are_planned_from_the_catalogue(workflow):
    overlays = [ROOT / "config" / "olmoe.yaml", ROOT / "config" / "examples" / "math_code_text.yaml"]
    jobs = planned(workflow.finish("--dry-run", "--quiet", "rules", configs=overlays))
    assert jobs["fetch_model"] == 1 and jobs["fetch_dataset"] == jobs["extract_routing"] == 5


def test_mmlu_is_asked_of_three_models_whose_items_are_fetched_once(workflow):
    dry = workflow.finish("--dry-run", configs=[ROOT / "config" / "examples" / "mmlu.yaml"])
    jobs = planned(dry)
    assert jobs["fetch_model"] == jobs["measure_multiple_choice"] == 3 and jobs["fetch_dataset"] == 17
    assert jobs["fetch_items"] == jobs["measure_multiple_choice_models"] == 1
    assert jobs["extract_routing"] == 3 * 17 and "train_model" not in jobs
    assert "gpu=1" in re.search(r"^rule measure_multiple_choice:\n((?:    .*\n)+)", dry.stdout, flags=re.MULTILINE)[1]


def test_items_that_are_not_there_are_told_before_any_job(workflow):
    overlay = workflow.overlay("wrong.yaml", {"multiple_choice": {"source": "files", "path": "nowhere"}})
    sentence = "Error: config: multiple_choice.path: nowhere does not exist: correct the path."
    assert sentence in workflow.run("--dry-run", configs=[overlay]).stderr


def test_a_large_study_in_shards_is_planned(workflow):
    for name in range(5):
        (workflow.folder / f"model_{name}").mkdir()
    (workflow.folder / "rows.jsonl").touch()
    models = {f"m{name}": {"source": "local", "path": f"model_{name}"} for name in range(5)}
    limits = {"tokens": 80_000_000}
    datasets = {f"d{name}": {"source": "files", "files": ["rows.jsonl"], "limits": limits} for name in range(20)}
    talk = {"chat": True, "roles": ["user"], "generate": {"tokens": 5}, "limits": {"tokens": 20_000_000}}
    datasets["talk"] = datasets["d0"] | talk
    study = {"title": "Large", "models": list(models), "datasets": list(datasets)}
    overlay = workflow.overlay("large.yaml", {"study": study, "models": models, "datasets": datasets})
    jobs = planned(workflow.finish("--dry-run", "--quiet", "rules", configs=[overlay]))
    assert jobs["extract_routing"] == 5 * (20 * 8 + 2)
    assert jobs["tokenize_dataset"] == 5 * 20 and jobs["combine_tallies"] == 5 * 21
    # what users say, what stands between, and what the model writes: made of one extraction of `talk`
    assert jobs["tokenize_prompts"] == jobs["generate_continuations"] == 5
    assert jobs["split_tokens"] == jobs["split_records"] == 5 * 3
    assert jobs["tally_routing"] == 5 * (20 * 8 + 2 + 3)
    assert jobs["measure_maps"] == 5


def test_tracking_adds_one_job_and_needs_its_package_at_once(workflow):
    plain = planned(workflow.finish("--dry-run", "--quiet", "rules"))
    overlay = workflow.overlay("tracked.yaml", {"tracking": {"wandb": {"project": "gatebook", "mode": "offline"}}})
    tracked = planned(workflow.finish("--dry-run", "--quiet", "rules", configs=[overlay]))
    assert "track_wandb" not in plain and tracked == plain | {"track_wandb": 1}
    command = workflow.command("--dry-run", configs=[overlay])
    hide = (
        "import importlib.util, runpy, sys; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *more: None if name == 'wandb' else find(name, *more); "
        "sys.argv = sys.argv[1:]; runpy.run_module('snakemake', run_name='__main__')"
    )
    done = subprocess.run([command[0], "-c", hide, *command[2:]], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        "Error: config: tracking.wandb: the package wandb is not installed: run `python -m pip install wandb` in this "
        "environment, or remove tracking."
    )


def test_the_default_study_is_planned_without_a_profile(workflow):
    dry = workflow.finish("--dry-run")
    jobs = planned(dry)
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    assert jobs["extract_routing"] == 2 * len(config["study"]["datasets"])
    assert jobs["select_experts"] == len(config["demo"]["training"]["checkpoints"]) - 2


def test_the_list_of_rules_is_a_table_of_contents(workflow):
    listed = [line for line in workflow.finish("--list-rules").stdout.splitlines() if line]
    assert len(listed) >= 20
    for line in listed:
        assert re.fullmatch(r"\w+ \(.{20,}\)", line), line
