"""The table of what chapters cost: its arithmetic by hand, and a row for every chapter."""

import pytest

from gatebook.lists import ROOT, known_chapters
from gatebook.report import costs

STUDY = {"datasets": 3, "tokens": 100_000, "window": 10}


def test_tokens_through_the_model():
    reach = {"tokens": 5, "lengths": [1, 2, 4], "windows": 7, "noise": [0.1]}
    # last 1, 2, 4 tokens; 1 and 2 also after as many others; windows with less precision and with noise
    assert costs.passes("reach", reach, **STUDY) == 5 * (1 + 2 + 4 + 2 + 4) + 7 * 10 * 2
    lens = {"windows": 2, "fitted_windows": 1, "removal_windows": 1}
    assert costs.passes("logit_lens", lens, **STUDY) == 3 * 10 * (2 + 1 + 3 * 16)
    assert costs.passes("expert_ablation", {"clusters": 2}, **STUDY) == 3 * 2 * 10 * 16 * 64 / 2
    assert costs.passes("router_decisiveness", {}, **STUDY) is None


def test_core_seconds():
    assert costs.core_seconds("coactivation", {}, 10, 100_000) == pytest.approx(4.44)
    whole = costs.core_seconds("paths", {}, 14, 12_000)  # as the embedded study, of larger layers
    assert whole == pytest.approx(5 + 7 * (16 * 8) / (4 * 4))
    assert costs.core_seconds("paths", {"tokens": 6_000}, 14, 12_000) == pytest.approx(5 + (whole - 5) / 2)
    assert costs.core_seconds("nothing", {}, 14, 12_000) is None


def test_every_chapter_has_a_row_and_asks_for_the_memory_of_its_rule():
    declared = known_chapters(ROOT)
    rows = costs.table(declared, ROOT).splitlines()[3:]
    assert [row.split("`")[1] for row in rows] == list(declared)
    memory = {row.split("`")[1]: row.split("|")[4].strip() for row in rows}
    assert memory["transitions"] == "3.9 GB"  # 1,000 MB, and 1,200 for each of 2.4 million tokens
    assert memory["expert_ablation"] == "8.0 GB"  # of the rule that removes experts
    assert "left out: the model has one checkpoint" in rows[list(declared).index("evolution")]
    cells = {row.split("`")[1]: row.split("|")[2:4] for row in rows}
    assert [cell.strip() for cell in cells["coactivation"]] == ["none", "11 s"]
