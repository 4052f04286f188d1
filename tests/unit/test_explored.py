"""The data scripts of what readers explore, held against the matrices that they were made from."""

import base64
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from gatebook.figures import explored
from gatebook.figures.explored import Explored, Matrices, Matrix, Points, Ribbons, Step, Tree, Word, Words
from gatebook.figures.matrix import clustered_order

LAYERS, EXPERTS = [1, 4, 6, 9], 6
DIMS = ("layer", "expert", "other")


def array(values, layers=LAYERS) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, float), {"layer": layers}, DIMS)


@pytest.fixture
def made() -> Matrices:
    rng = np.random.default_rng(0)
    lift = np.exp2(rng.normal(0, 1, (len(LAYERS), EXPERTS, EXPERTS)))
    lift = np.sqrt(lift * lift.swapaxes(1, 2))
    lift[:, range(EXPERTS), range(EXPERTS)] = np.nan
    share = rng.uniform(0, 1, lift.shape)
    nulls = {"even": 0.5, "by layer": xr.DataArray([0.1, 0.2, 0.3, 0.4], {"layer": LAYERS}, ["layer"])}
    between = xr.DataArray([[np.nan, 1.1], [1.1, np.nan]], dims=("layer", "other_layer"))
    return Matrices(
        [
            Matrix("lift", "Lift", array(lift), kind="ratio", beside={"low": array(lift / 2), "q": array(lift / 100)}),
            Matrix("share", "Share", array(share), nulls=nulls),
            Matrix("overlap", "Overlap", between, kind="ratio"),
        ],
        clustered="lift",
        load=xr.DataArray(rng.uniform(size=(len(LAYERS), EXPERTS)), {"layer": LAYERS}, ("layer", "expert")),
    )


def contents(shown: Explored) -> dict[str, dict]:
    """What the data scripts hold, by name."""
    found = {}
    for name, text in shown.scripts().files().items():
        payload = base64.b64decode(re.search(r',"json","(.*)"\);$', text)[1])
        found[name.removesuffix(".js")] = json.loads(zlib.decompress(payload, -zlib.MAX_WBITS))
    return found


def test_a_script_for_each_layer_has_every_number_rounded(made):
    found = contents(made)
    assert list(found) == ["index", "1", "4", "6", "9", "across"]
    lift, share, _ = made.matrices
    pairs = np.triu_indices(EXPERTS, 1)
    for place, layer in enumerate(LAYERS):
        numbers = found[f"{layer}"]["numbers"]
        assert list(numbers["lift"]) == ["", "low", "q"]
        np.testing.assert_allclose(numbers["lift"][""], lift.values.values[place][pairs], rtol=5e-3)
        np.testing.assert_allclose(numbers["lift"]["q"], lift.beside["q"].values[place][pairs], rtol=5e-3)
        np.testing.assert_allclose(numbers["share"][""], share.values.values[place].ravel(), atol=5e-4)
        np.testing.assert_allclose(found[f"{layer}"]["load"], made.load.values[place], rtol=5e-3)
    assert found["across"]["numbers"] == {"overlap": {"": [1.1]}}


def test_the_index_says_what_the_matrices_are(made):
    index = contents(made)["index"]
    assert {key: index[key] for key in ("layers", "left_out", "experts", "all_layers")} == {
        "layers": LAYERS,
        "left_out": 0,
        "experts": EXPERTS,
        "all_layers": LAYERS,
    }
    lift, share, overlap = index["matrices"]
    assert (lift["symmetric"], share["symmetric"], overlap["symmetric"]) == (True, False, True)
    assert (lift["across"], overlap["across"]) == (False, True)
    assert lift["limits"][0] * lift["limits"][1] == pytest.approx(1)
    assert share["nulls"] == {"even": [0.5] * 4, "by layer": [0.1, 0.2, 0.3, 0.4]}
    assert len(lift["colours"]) == explored.SHADES and lift["colours"][16] == "#f7f7f6"  # white between both colours
    assert lift["beside"] == ["low", "q"]


def test_a_null_that_is_not_known_is_left_out(made):
    lift = replace(made.matrices[0], nulls={"not known": float("nan"), "known": 1.0})
    assert contents(replace(made, matrices=[lift]))["index"]["matrices"][0]["nulls"] == {"known": [1.0] * 4}


def test_what_is_not_known_is_null(made):
    values = made.matrices[0].values.copy()
    values[0, 0, 1] = values[0, 1, 0] = np.nan
    shown = replace(made, matrices=[replace(made.matrices[0], values=values)])
    numbers = contents(shown)["1"]["numbers"]["lift"][""]
    assert numbers[0] is None and None not in numbers[1:]


def test_experts_are_clustered_by_log_ratios(made):
    values = np.clip(np.log2(made.matrices[0].values.values[2]) / 3, -1, 1)
    assert contents(made)["6"]["clustered"] == clustered_order(values).tolist()


def test_limits_of_magnitudes_hold_nearly_all_pairs_and_never_the_diagonal():
    values = np.full((2, 40, 40), 0.1)
    values[:, range(40), range(40)] = 1
    values[0, 0, 1:11] = 0.3
    assert explored.quantile_limits(values) == (0.1, pytest.approx(0.11))  # 10 of 3,120 pairs are less than 1 %
    values[0, 0, 1:] = 0.3
    assert explored.quantile_limits(values) == (0.1, 0.3)
    assert explored.quantile_limits(np.full((2, 2), np.nan)) == (0.0, 0.01)


def test_layers_are_left_out_evenly_where_all_would_take_too_much(made, monkeypatch):
    # a layer has 3 x 15 numbers of pairs and 36 of the matrix that is not symmetric
    monkeypatch.setattr(explored, "MOST_NUMBERS", 3 * 81)
    found = contents(made)
    assert found["index"]["layers"] == [1, 6, 9] and found["index"]["left_out"] == 1
    assert found["index"]["matrices"][1]["nulls"]["by layer"] == [0.1, 0.3, 0.4]
    assert "4" not in found and "9" in found
    monkeypatch.setattr(explored, "MOST_NUMBERS", 4 * 81)
    assert contents(made)["index"]["left_out"] == 0
    monkeypatch.setattr(explored, "MOST_NUMBERS", 1)
    assert contents(made)["index"]["layers"] == [1, 9]


def test_files_are_written_with_one_build(made, tmp_path):
    build = made.write(tmp_path)
    files = sorted((tmp_path / explored.FOLDER).iterdir())
    assert [path.name for path in files] == ["1.js", "4.js", "6.js", "9.js", "across.js", "index.js"]
    assert all(f'"{build}"' in path.read_text() for path in files)


def test_maps_have_their_positions_in_thousandths_and_their_words_once():
    rng = np.random.default_rng(0)
    positions = rng.normal(5, 3, (2, 1, 3, 7, 2))
    dims = ("layer", "space", "projection", "point", "axis")
    coordinates = {"layer": [2, 8], "space": ["inputs"], "projection": ["PCA", "UMAP", "t-SNE"]}
    expert = xr.DataArray(rng.integers(0, 9, (2, 7)), {"layer": [2, 8]}, ("layer", "point"))
    trust = xr.DataArray([[[0.9123, 0.5, np.nan]]] * 2, {"layer": [2, 8]}, dims[:3])
    shown = Points(
        xr.DataArray(positions, coordinates, dims),
        {"dataset": xr.DataArray(list("abcabca"), dims="point"), "first expert": expert},
        {name: [f"{name} {point}" for point in range(7)] for name in ("before", "text", "after")},
        trust,
    )
    found = contents(shown)
    assert list(found) == ["index", "2", "8"]
    assert found["index"] == {
        "layers": [2, 8],
        "spaces": ["inputs"],
        "projections": ["PCA", "UMAP", "t-SNE"],
        "categories": ["dataset", "first expert"],
        "texts": {name: [f"{name} {point}" for point in range(7)] for name in ("before", "text", "after")},
        "of": {"dataset": list("abcabca")},
    }
    for place, layer in enumerate((2, 8)):
        assert found[f"{layer}"]["of"] == {"first expert": expert.values[place].tolist()}
        assert found[f"{layer}"]["trustworthiness"] == [[0.912, 0.5, None]]
        for written, known in zip(found[f"{layer}"]["positions"][0], positions[place, 0], strict=True):
            low, high = known.min(axis=0), known.max(axis=0)
            np.testing.assert_allclose(written, 1000 * (known - low) / (high - low), atol=0.5)


def test_a_map_without_extent_is_drawn_at_its_corner():
    assert (explored._thousandths(np.full((1, 3, 2), 4.0)) == 0).all()


def test_flows_have_a_number_for_every_pair_of_bars():
    tokens = np.array([[3, 4], [0, 5]])
    step = Step(tokens, np.array([[1.23456, 2], [np.nan, 0.5]]), *np.full((2, 2, 2), np.nan))
    found = contents(Ribbons([1, 4], [[7, -1], [2, 3]], [step], (1 / 4, 4), "ids"))
    assert list(found) == ["index"] and found["index"]["null"] == "ids" and found["index"]["limits"] == [0.25, 4]
    (shown,) = found["index"]["ribbons"]
    assert found["index"]["layers"] == [1, 4] and shown["bars"] == [[7, -1], [2, 3]]
    assert shown["steps"][0]["tokens"] == tokens.tolist()
    assert shown["steps"][0]["ratio"] == [[1.23, 2], [None, 0.5]] and shown["steps"][0]["low"] == [[None] * 2] * 2
    assert len(found["index"]["colours"]) == explored.SHADES


def test_words_have_a_bar_for_every_expert_and_meaning():
    choices = np.array([[5, 2], [5, 7], [3, 7], [3, 7]])
    found = contents(Words([1, 4], [Word("light", ["lamp", "weight"], choices, np.array([0, 1, 1, 1]))]))["index"]
    (shown,) = found["ribbons"]
    assert found["layers"] == [1, 4] and shown["name"] == "light"
    assert [name for name, _ in shown["meanings"]] == ["lamp", "weight"]
    assert shown["meanings"][1][1] == "3 occurrences of “light” that mean weight"
    assert shown["bars"] == [[5, 5, 3], [2, 7]] and shown["kinds"] == [[0, 1, 1], [0, 1]]
    assert shown["steps"] == [{"tokens": [[1, 0], [0, 1], [0, 2]]}]
    both = ". Layer 1 expert 5: 1 of 1 that mean lamp, 1 of 3 that mean weight"
    assert shown["holds"][0] == [both, both, ". Layer 1 expert 3: 2 of 3 that mean weight"]


def test_experts_of_a_word_beyond_twelve_are_others_and_stand_last():
    choices = np.stack([np.r_[np.arange(14), np.arange(12)], np.zeros(26, int)], axis=1)
    shown = Word("light", ["lamp"], choices, np.zeros(26, int)).flows([0, 1])
    assert shown["bars"] == [[*range(12), -1], [0]] and shown["steps"][0]["tokens"] == [[2]] * 13
    assert shown["holds"][0][-1] == ". Layer 0 others: 2 of 26 that mean lamp"


def test_paths_are_found_by_the_last_layer_of_their_window():
    paths = [np.array([[1, 2], [3, 4]]), np.array([[5, 6]])]
    found = contents(Tree([[0, 2], [2, 5]], paths, [np.array([9, 4]), np.array([3])], 20))
    assert found["index"] == {"windows": [[0, 2], [2, 5]], "total": 20}
    assert found["2"] == {"paths": [[1, 2], [3, 4]], "tokens": [9, 4]} and found["5"]["tokens"] == [3]
