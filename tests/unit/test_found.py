"""What the chapters found, for the expert browser: the values of the profiles, and pairs as the chapter has them."""

import json
from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from test_profiles import found, profiled, study, uniform_with_idle_expert  # noqa: F401

from gatebook.atlas import found as hub
from gatebook.measures.uncertainty import INTERVAL


def pairs(experts: int, **values: float) -> xr.Dataset:
    """Metrics of co-activation with the same values everywhere."""
    names = {"lift_low": 0.5, "lift_high": 2.0, "adjusted_p": np.nan} | values
    return xr.Dataset(
        {name: (("expert", "other"), np.full((experts, experts), value)) for name, value in names.items()}
    )


@pytest.mark.slow
def test_an_experts_values_are_those_of_its_profile(found):  # noqa: F811
    mine = [one for one in found if one["layer"] == 2]
    content = hub.of_layer(mine, pairs(6, adjusted_p=0.01234567))
    json.dumps(content, allow_nan=False)
    for expert, one in enumerate(mine):
        load = one["load"]["selected_share"]
        assert content["load"][expert] == pytest.approx([load[part] for part in INTERVAL], rel=5e-3)
        assert content["ranks"][expert] == one["ranks"]
        domains = [[*(domain["share"][part] for part in INTERVAL), domain["adjusted_p"]] for domain in one["domains"]]
        for shown, exact in zip(content["domains"][expert], domains, strict=True):
            assert shown == pytest.approx(exact, rel=5e-3)
        assert [other for other, _ in content["nearest"][expert]] == [other["expert"] for other in one["nearest"]]
        assert content["ablation"][expert][0] == pytest.approx(one["ablation"]["loss_change"]["estimate"])
        assert content["ablation"][expert][3] == one["ablation"]["most"]["dataset"]
    assert content["q"] == [0.0123] * 15 and content["low"] == [0.5] * 15


@pytest.mark.slow
def test_expected_tokens_are_those_of_uniform_loads(tmp_path):
    found = profiled(uniform_with_idle_expert(), tmp_path)  # noqa: F811
    content = hub.of_layer(found, pairs(6))
    alike = 480 * 2 * 1 / (4 * 3)  # T k (k - 1) / (E (E - 1)) for the four experts in use
    expected = dict(zip(combinations(range(6), 2), content["expected"], strict=True))
    for pair, value in expected.items():
        assert value == pytest.approx(alike if max(pair) < 4 else 0, rel=1e-5)
    assert content["q"] == [None] * 15
    assert content["entropy"][5] == [None] * 3


def test_the_scripts_name_datasets_and_types(found):  # noqa: F811
    content = hub.of_layer(found[:6], pairs(6))
    made = hub.scripts([(0, content)], found[0], 0.9, 0.1)
    assert list(made.files()) == ["found/index.js", "found/0.js"]
    assert made.build in made.files()["found/0.js"]
