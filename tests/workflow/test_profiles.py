"""The profiles plan the same study, and the one for Slurm knows the rules."""

import re

import pytest
import yaml
from studies import ROOT, planned

PROFILES = ROOT / "config" / "profiles"


@pytest.mark.parametrize("name", ["local", "ci", "slurm"])
def test_a_profile_plans_the_whole_study(workflow, tiny_config, name):
    jobs = planned(workflow.finish("--dry-run", "--profile", str(PROFILES / name), configs=[tiny_config]))
    assert jobs["extract_routing"] == 6
    assert jobs["build_report"] == 1


def test_on_slurm_extraction_alone_asks_for_a_gpu(workflow):
    arguments = ("--dry-run", "--profile", str(PROFILES / "slurm"))
    dry = workflow.finish(*arguments, configs=[ROOT / "config" / "olmoe.yaml"])
    blocks = re.findall(r"^ *(?:local)?rule (\w+):\n((?:     *.*\n)+)", dry.stdout, flags=re.MULTILINE)
    assert {name for name, text in blocks if re.search(r"gpu=[1-9]", text)} == {"extract_routing"}


def test_the_groups_of_the_slurm_profile_are_rules_and_hold_every_figure():
    groups = yaml.safe_load((PROFILES / "slurm" / "profile.yaml").read_text(encoding="utf-8"))["groups"]
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    rules = set(re.findall(r"^rule (\w+):", text, flags=re.MULTILINE))
    assert set(groups) <= rules
    assert {rule for rule in rules if rule.startswith("plot_")} <= set(groups)
