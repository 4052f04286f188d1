import base64
import json
import re
import zlib
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from routing_cases import completed
from test_expert_sets import sets_of
from vocabulary_cases import vocabulary_case, written

from gatebook.atlas import browser, fit
from gatebook.atlas.browser import AROUND
from gatebook.measures import vocabulary
from gatebook.measures.expert_sets import MODES
from gatebook.study import routed
from gatebook.study.routed import Layer

SETTINGS = {
    "stored_tokens": 150,
    "pairs": 5,
    "triples": 4,
    "highest": 6,
    "per_token": 2,
    "middle": 4,
    "random": 5,
    "seed": 4,
    "minimum_occurrences": 20,
    "false_discovery_rate": 0.2,
    "specific_sets": 7,
    "minimum_count": 12,
    "typical_tokens": 8,
    "texts": 3,
    "text_tokens": 10,
    "plots": 1,
}
LENGTHS = {"poems": [14, 50, 33, 20, 70, 3], "code": [60, 40]}
EXPERTS, TOP_K, LAYERS = 6, 3, (0, 2)


def case_of(name: str):
    rng = np.random.default_rng(len(name))
    return vocabulary_case(rng, LENGTHS[name], 1.0, experts=EXPERTS, top_k=TOP_K, layers=LAYERS)


@pytest.fixture(scope="module")
def made():
    return {name: case_of(name) for name in LENGTHS}


@pytest.fixture
def build(run_script, model_folder, made, tmp_path):
    """Run the script: the folder of data scripts."""

    def run(study=None, predicted=None, place="out", **settings) -> Path:
        out = tmp_path / place
        out.mkdir()
        output = {"scripts": str(out / "browser"), "table": str(out / "expert_sets.csv")}
        params = {"model": {}, "settings": SETTINGS | settings, "confidence": 0.95}
        input = written(study or made, out, predicted) | {"tokenizer": str(model_folder)}
        run_script("build_browser", tmp_path, input=input, output=output, params=params)
        return out / "browser"

    return run


def load(folder: Path, name: str):
    """What a data script holds."""
    call = re.fullmatch(r'put\("(.*)","[0-9a-f]{12}","(json|bytes)","(.*)"\);\n', (folder / f"{name}.js").read_text())
    assert call[1] == name
    raw = zlib.decompress(base64.b64decode(call[3]), -zlib.MAX_WBITS)
    return json.loads(raw) if call[2] == "json" else raw


def together(made, layer: int):
    """All tokens of a layer: token id, dataset, place in the dataset, document, selected experts, weights."""
    parts = {name: [] for name in ("token_id", "dataset", "place", "document", "selected", "weight")}
    for index, one in enumerate(made.values()):
        records = completed(one.layers[layer])
        parts["token_id"].append(one.token_id)
        parts["dataset"].append(np.full(len(one.token_id), index))
        parts["place"].append(np.arange(len(one.token_id)))
        parts["document"].append(one.document_id[one.owner])
        parts["selected"].append(records["selected_expert"].values.astype(int))
        parts["weight"].append(records["routing_weight"].values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def test_index_vocabulary_and_stores_hold_the_tokens(build, made, tokenizer):
    folder = build()
    index, words = load(folder, "index"), load(folder, "vocabulary")
    assert (index["model"], index["checkpoint"], index["layers"]) == ("made up", "last", [0, 2])
    assert (index["experts"], index["top_k"], index["probability"]) == (6, 3, "softmax")
    assert index["weight_is_probability"] is True
    assert index["kinds"] == ["input", "next"]
    assert index["datasets"] == [
        {"name": "poems", "tokens": 190, "documents": 6, "stored": 150},
        {"name": "code", "tokens": 100, "documents": 2, "stored": 100},
    ]
    count = Counter(np.concatenate([one.token_id for one in made.values()]).tolist())
    assert dict(zip(words["id"], words["count"], strict=True)) == count
    assert words["text"] == vocabulary.token_texts(tokenizer, np.array(words["id"]))
    for name, one in made.items():
        store = load(folder, f"store/{name}")
        assert [words["id"][token] for token in store["token"]] == one.token_id[:150].tolist()
    poems = load(folder, "store/poems")
    assert poems["start"] == [0, 14, 64, 97, 117] and poems["documents"] == [f"doc-{number}" for number in range(5)]
    assert json.loads((folder / "page.json").read_text())["build"] in (folder / "index.js").read_text()


def heat_of(all_tokens: dict, experts: list[int]) -> np.ndarray:
    """The weight of a set at every token that has all of its experts, 0 elsewhere."""
    chosen = np.isin(all_tokens["selected"], experts)
    weight = (all_tokens["weight"] * chosen).sum(axis=1)
    return np.where(chosen.sum(axis=1) == len(experts), weight, 0)


def weights_of(all_tokens: dict, one: dict, having: list[int], stored: int) -> list[float]:
    """The weights of a set at its tokens that are stored."""
    return [
        all_tokens["weight"][token][np.isin(all_tokens["selected"][token], one["e"])].sum()
        for token in having
        if all_tokens["place"][token] < stored
    ]


@pytest.mark.parametrize("layer", LAYERS)
def test_every_set_has_its_counts_top_tokens_and_contexts(layer, build, made):
    rng = np.random.default_rng(3)
    predicted = {name: rng.integers(0, 12, len(one.token_id)) for name, one in made.items()}
    folder, all_tokens = build(predicted=predicted), together(made, layer)
    words, stores = load(folder, "vocabulary"), [load(folder, f"store/{name}") for name in made]
    following = [routed.next_token(one.token_id, one.tokens["position"].values) for one in made.values()]
    ids = {"input": all_tokens["token_id"], "next": np.concatenate(following)}
    ids["predicted"] = np.concatenate(list(predicted.values()))
    seen = Counter()
    for one in load(folder, f"experts/{layer}")["sets"]:
        for mode in one["m"]:
            seen[mode, len(one["e"])] += 1
            having = [
                token
                for token, row in enumerate(all_tokens["selected"].tolist())
                if tuple(one["e"]) in sets_of(row, MODES[mode], len(one["e"]))
            ]
            assert one["n"] == len(having)
            assert one["d"] == np.bincount(all_tokens["dataset"][having], minlength=2).tolist()
        for kind, top in one["top"].items():
            count = Counter(token for token in ids[kind][having].tolist() if token >= 0)
            assert top == [
                [words["id"].index(token), number, float(f"{number / one['n']:.3g}")]
                for token, number in sorted(count.items(), key=lambda item: (-item[1], item[0]))[:20]
            ]
        total, mine = Counter(all_tokens["token_id"].tolist()), Counter(all_tokens["token_id"][having].tolist())
        order = sorted(
            (token for token in mine if total[token] >= 10),
            key=lambda token: (-mine[token] / total[token], -mine[token], token),
        )
        assert one["own"] == [
            [words["id"].index(token), mine[token], float(f"{mine[token] / total[token]:.3g}")] for token in order[:20]
        ]
        assert len(one["high"]) <= 6 and len(one["mid"]) <= 4 and len(one["rand"]) <= 5
        weights, everywhere = [], heat_of(all_tokens, one["e"])
        shown = one["high"] + one["mid"] + one["rand"]
        assert ("heat" in one) == (0 in one["m"])
        for number, (dataset, place, weight) in enumerate(shown):
            (token,) = (
                token
                for token in having
                if (all_tokens["dataset"][token], all_tokens["place"][token]) == (dataset, place)
            )
            assert words["id"][stores[dataset]["token"][place]] == all_tokens["token_id"][token]
            chosen = np.isin(all_tokens["selected"][token], one["e"])
            assert weight == pytest.approx(all_tokens["weight"][token][chosen].sum(), rel=5e-3)
            weights.append(weight)
            if "heat" in one:
                size = AROUND * 2 + 1
                start = np.flatnonzero(all_tokens["dataset"] == dataset)[0]
                for step, digit in zip(range(-AROUND, AROUND + 1), one["heat"][size * number :], strict=False):
                    inside = 0 <= place + step < (all_tokens["dataset"] == dataset).sum()
                    exact = everywhere[start + place + step] if inside else 0
                    assert (digit == "0") == (exact == 0)
                    assert -0.05 < int(digit) - 9 * exact / (one["peak"] or 1) < 1.05
        median = np.median(weights_of(all_tokens, one, having, stored=150) or [0])
        away = [abs(weight - median) for _, _, weight in one["mid"]]
        assert away == pytest.approx(sorted(away), abs=2e-3)
        assert np.all(np.diff(weights[: len(one["high"])]) <= 0)
        places = [(dataset, place) for dataset, place, _ in shown]
        assert len(set(places)) == len(places)
    assert seen == {(mode, size): number for mode in range(3) for size, number in ((1, 6), (2, 5), (3, 4))}
    pairs = load(folder, f"pairs/{layer}")["n"]
    both = Counter(pair for row in all_tokens["selected"].tolist() for pair in combinations(sorted(row), 2))
    assert pairs == [both[pair] for pair in combinations(range(EXPERTS), 2)]


def test_the_table_of_specific_sets_is_the_one_of_the_page(build):
    rng = np.random.default_rng(0)
    made = {name: vocabulary_case(rng, [20] * 20, 2.0, experts=EXPERTS, top_k=TOP_K) for name in LENGTHS}
    made["code"] = made["code"].permute_experts(np.array([3, 5, 0, 2, 1, 4]))
    folder = build(made)
    table = pd.read_csv(folder.parent / "expert_sets.csv", dtype={"experts": str})
    index = load(folder, "index")
    assert len(table) and (table["q"] <= 0.2).all() and (table["low"] <= table["score"]).all()
    assert (table.groupby(["layer", "mode", "dataset"]).size() <= 7).all()
    for layer in LAYERS:
        content, mine = load(folder, f"sets/{layer}"), table[table["layer"] == layer]
        rows = content["rows"]
        assert [MODES[mode] for mode in rows["mode"]] == mine["mode"].tolist()
        assert [" ".join(map(str, experts)) for experts in rows["e"]] == mine["experts"].tolist()
        assert [index["datasets"][number]["name"] for number in rows["dataset"]] == mine["dataset"].tolist()
        assert rows["n"] == mine["tokens"].tolist() and rows["c"] == mine["dataset_tokens"].tolist()
        for name in ("score", "low", "high", "q"):
            assert rows[name] == pytest.approx(mine[name].tolist(), rel=5e-3)
        everything = together(made, layer)
        for experts, mode, dataset, number, here in zip(
            *(rows[key] for key in ("e", "mode", "dataset", "n", "c")), strict=True
        ):
            having = [
                tuple(experts) in sets_of(row, MODES[mode], len(experts)) for row in everything["selected"].tolist()
            ]
            assert number == sum(having) >= 20
            assert here == (everything["dataset"][having] == dataset).sum()
        shown = Counter(zip(rows["mode"], rows["dataset"], strict=True))
        for mode in range(3):
            for dataset in range(2):
                assert shown[mode, dataset] == min(content["specific"][mode][dataset], 7)
                assert content["specific"][mode][dataset] <= content["tested"][mode][dataset]


def test_experts_of_the_frequent_tokens(build, made):
    folder = build()
    words, counts = load(folder, "vocabulary"), load(folder, "tokens/counts")
    frequent = [place for place, count in enumerate(words["count"]) if count >= 12]
    assert counts["token"] == sorted(sorted(frequent, key=lambda place: (-words["count"][place], place))[:8])
    everything = together(made, 2)
    content = load(folder, "tokens/2")
    for row, place in enumerate(content["token"]):
        here = everything["token_id"] == words["id"][place]
        assert counts["d"][row] == np.bincount(everything["dataset"][here], minlength=2).tolist()
        for share, expert, ranks in (("share", "expert", 1), ("selected", "selected_expert", TOP_K)):
            count = Counter(everything["selected"][here, :ranks].ravel().tolist())
            expected = sorted(count.items(), key=lambda item: (-item[1], item[0]))[:3]
            assert content[expert][row] == [number for number, _ in expected]
            assert content[share][row] == [float(f"{number / here.sum():.3g}") for _, number in expected]


def test_texts_hold_the_routing_of_their_tokens(build, made):
    folder = build()
    index, words = load(folder, "index"), load(folder, "vocabulary")
    assert [(text["dataset"], text["document"], text["tokens"], text["plots"]) for text in index["texts"]] == [
        ("poems", "doc-0", 10, True), ("poems", "doc-2", 10, False), ("poems", "doc-5", 3, False),
        ("code", "doc-0", 10, True), ("code", "doc-1", 10, False),
    ]  # fmt: skip
    for number, text in enumerate(index["texts"]):
        tokens = [words["id"][token] for token in load(folder, f"texts/{number}")["token"]]
        layers = np.frombuffer(load(folder, f"texts/{number}-layers"), np.uint8).reshape(2, 2, text["tokens"], TOP_K)
        for place, layer in enumerate(LAYERS):
            everything = together(made, layer)
            here = np.flatnonzero(
                (everything["dataset"] == list(made).index(text["dataset"]))
                & (everything["document"] == text["document"])
            )[:10]
            assert tokens == everything["token_id"][here].tolist()
            np.testing.assert_array_equal(layers[0, place], everything["selected"][here])
            np.testing.assert_allclose(
                layers[1, place] / 255 * index["weight_scale"],
                everything["weight"][here],
                atol=index["weight_scale"] / 500,
            )
            if text["plots"]:
                plots = np.frombuffer(load(folder, f"texts/{number}-plots"), np.uint8).reshape(
                    2, text["tokens"], EXPERTS
                )
                chosen = np.take_along_axis((plots[place] / 255) ** 2, everything["selected"][here], axis=1)
                np.testing.assert_allclose(chosen, everything["weight"][here], atol=0.01)  # weights are probabilities
                assert ((plots[place] / 255) ** 2).sum(axis=1) == pytest.approx(1, abs=0.02)
        assert (folder / f"texts/{number}-plots.js").exists() == text["plots"]


def test_ids_of_more_than_256_experts_have_two_bytes():
    text = browser.Text(0, "doc", 0, 2, plots=False)
    tokens = type("Tokens", (), {"start": [0]})
    routing = browser.TextRouting(tokens, [text], 300)
    routing.add(Layer(0, 300, np.array([[299, 1], [2, 256]]), np.array([[0.5, 0.25], [0.4, 0.1]])), [None])
    ((_, content),) = routing.contents()
    assert np.frombuffer(content[:8], "<u2").tolist() == [299, 1, 2, 256]
    assert list(content[8:]) == [255, 128, 204, 51]


def test_compact_records_have_no_plots_and_the_same_rest(build, made):
    full, short = build(), build({name: one.compact() for name, one in made.items()}, place="compact")
    assert not any(text["plots"] for text in load(short, "index")["texts"])
    assert {path.name for path in short.rglob("*-plots.js")} == set()
    for name in ("vocabulary", "store/poems", "pairs/0", "tokens/2", "texts/1"):
        assert load(full, name) == load(short, name)


def test_one_selected_expert_has_no_pairs(build):
    rng = np.random.default_rng(0)
    made = {name: vocabulary_case(rng, LENGTHS[name], 1.0, top_k=1, layers=(0,)) for name in LENGTHS}
    folder = build(made)
    assert load(folder, "pairs/0") == {"n": []}
    assert {len(one["e"]) for one in load(folder, "experts/0")["sets"]} == {1}


def test_the_most_frequent_sets_of_four_of_each_expert_are_counted():
    rng = np.random.default_rng(0)
    selected = np.argsort(rng.random((200, 7)) + 0.1 * np.arange(7), axis=1)[:, :5].astype(np.uint8)
    layer = Layer(3, 7, selected, np.ones(selected.shape, np.float32))
    totals = Counter(four for chosen in selected.tolist() for four in combinations(sorted(chosen), 4))
    order = sorted(totals, key=lambda four: (-totals[four], four))
    for expert, found in enumerate(browser._fours(layer)):
        mine = [four for four in order if expert in four][:5]
        assert list(map(tuple, found["e"])) == mine and found["n"] == [totals[four] for four in mine]
    assert browser.counts_fours(64, 8) and browser.counts_fours(7, 4)
    assert not browser.counts_fours(65, 8) and not browser.counts_fours(64, 3)


def test_in_a_study_of_one_dataset_no_set_is_specific(build, made):
    folder = build({"poems": made["poems"]})
    assert len(pd.read_csv(folder.parent / "expert_sets.csv")) == 0
    content = load(folder, "sets/0")
    assert content["tested"] == content["specific"] == [[0]] * 3 and not any(content["rows"].values())


def test_the_same_study_gives_the_same_bytes(build):
    first, second = build(place="first"), build(place="second")
    names = sorted(path.relative_to(first) for path in first.rglob("*.js"))
    assert names == sorted(path.relative_to(second) for path in second.rglob("*.js"))
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_a_folder_above_the_budget_does_without_detail_and_says_so(build):
    whole, least = build(place="whole"), build(place="least", megabytes=0.001)
    assert load(whole, "index")["dropped"] == []
    index = load(least, "index")
    assert index["dropped"] == list(fit.RULES) and index["megabytes"] == 0.001
    assert {len(one["e"]) for layer in LAYERS for one in load(least, f"experts/{layer}")["sets"]} == {1}
    for name in ("vocabulary", "pairs/0", "sets/2", "tokens/2", "store/poems"):
        assert load(least, name) == load(whole, name)
    assert [(text["dataset"], text["plots"]) for text in index["texts"]] == [("poems", False), ("code", False)]
    assert (load(least, "texts/1"), load(least, "texts/1-layers")) == (
        load(whole, "texts/3"),
        load(whole, "texts/3-layers"),
    )
    assert not (least / "texts/2.js").exists() and not list(least.rglob("*-plots.js"))


def test_only_as_much_is_left_out_as_is_needed(build):
    whole = build(place="whole", texts=6)
    size = sum(path.stat().st_size for path in whole.rglob("*.js"))
    plots = sum(path.stat().st_size for path in whole.rglob("*-plots.js"))
    limit = (size - plots / 2) / 1e6
    part = build(place="part", texts=6, megabytes=limit)
    assert load(part, "index")["dropped"] == [next(iter(fit.RULES))]
    assert sum(path.stat().st_size for path in part.rglob("*.js")) <= 1e6 * limit
    assert load(part, "experts/0") == load(whole, "experts/0")


def test_sizes_by_kind():
    sizes = {"index.js": 3, "texts/1.js": 2, "texts/1-layers.js": 1, "texts/1-plots.js": 4}
    assert browser.size_by_kind(sizes) == {"index": 3, "texts": 3, "plots": 4}
