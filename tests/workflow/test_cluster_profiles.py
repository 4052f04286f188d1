"""The profiles plan the same study, and those for clusters know the rules."""

import re

import pytest
import yaml
from studies import ROOT, planned

PROFILES = ROOT / "config" / "profiles"


@pytest.mark.parametrize("name", ["local", "ci", "slurm", "generic"])
def test_a_profile_plans_the_whole_study(workflow, tiny_config, name):
    jobs = planned(workflow.finish("--dry-run", "--profile", str(PROFILES / name), configs=[tiny_config]))
    assert jobs["extract_routing"] == 6
    assert jobs["build_report"] == 1


@pytest.mark.parametrize("name", ["slurm", "generic"])
def test_on_a_cluster_what_runs_the_model_asks_for_a_gpu_and_every_job_for_memory_and_time(workflow, name):
    arguments = ("--dry-run", "--profile", str(PROFILES / name))
    dry = workflow.finish(*arguments, configs=[ROOT / "config" / "olmoe.yaml"])
    blocks = re.findall(r"^ *(?:local)?rule (\w+):\n((?:     *.*\n)+)", dry.stdout, flags=re.MULTILINE)
    asking = {rule for rule, text in blocks if re.search(r"gpu=[1-9]", text)}
    chapters = {"attention_heads", "expert_retention", "logit_lens", "meaning", "multiple_choice", "reach"}
    models = {"extract_routing", "name_experts", "sample_states", "scan_ablation"}
    assert asking == models | {f"measure_{name}" for name in chapters}
    silent = {rule for rule, text in blocks if not re.search(r"mem_mb=\d", text) or not re.search(r"runtime=\d", text)}
    assert silent == {"all", "fetch_model", "fetch_dataset"}  # which run where Snakemake was started


def test_the_groups_of_the_slurm_profile_are_rules_and_hold_every_figure():
    groups = yaml.safe_load((PROFILES / "slurm" / "profile.yaml").read_text(encoding="utf-8"))["groups"]
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    rules = set(re.findall(r"^rule (\w+):", text, flags=re.MULTILINE))
    assert set(groups) <= rules
    assert {rule for rule in rules if rule.startswith("plot_")} <= set(groups)


def test_the_generic_profile_has_the_settings_of_the_one_for_slurm():
    profiles = [yaml.safe_load((PROFILES / name / "profile.yaml").read_text()) for name in ("generic", "slurm")]
    own = r"executor|cluster-generic-.*|slurm-.*|.*-status-checks.*"  # how to talk to the scheduler
    generic, slurm = ({key: each[key] for key in each if not re.fullmatch(own, key)} for each in profiles)
    assert generic == slurm
