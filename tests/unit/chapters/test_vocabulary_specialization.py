import itertools
import math
from collections import defaultdict
from dataclasses import replace
from functools import partial

import numpy as np
import page_cases
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import Case
from vocabulary_cases import measured, selection, vocabulary_case

from gatebook.chapters.base.page import Seen, percent
from gatebook.chapters.vocabulary_specialization import measure as chapter
from gatebook.chapters.vocabulary_specialization import page
from gatebook.inputs import clusters
from gatebook.measures import uncertainty, vocabulary
from gatebook.report import render
from gatebook.study import routed

seen = partial(page_cases.seen, "vocabulary_specialization")

pytestmark = pytest.mark.filterwarnings("error")

SEED = 1  # of `measured`
PARTS = ["estimate", "low", "high"]


def by_hand(token_id: list[int], selected: list, halves: np.ndarray, experts: int) -> dict[str, float]:
    """All measures from their definitions, token by token; nan where nothing is defined.

    halves: which tokens are in the first half of each split, (split, token).
    """
    number, size = defaultdict(lambda: np.zeros(experts)), defaultdict(int)
    for token, (one, chosen) in enumerate(zip(token_id, selected, strict=True)):
        for key in (one, *((one, split, bool(half[token])) for split, half in enumerate(halves))):
            size[key] += 1
            for expert in chosen:
                number[key][expert] += 1
    ids = set(token_id)
    share = {one: number[one].max() / size[one] for one in ids}
    often = [one for one in ids if size[one] >= 10]
    kept = of = 0.0
    for one, split in itertools.product(ids, range(len(halves))):
        if size[one, split, False] and size[one, split, True]:
            of += size[one]
            for half in (False, True):
                best = np.flatnonzero(number[one, split, half] == number[one, split, half].max())
                kept += number[one, split, not half][best].mean()
    led = []
    for expert in range(experts):
        mine = [
            (share[x], 1 / (number[x] == number[x].max()).sum()) for x in often if number[x][expert] == number[x].max()
        ]
        led.append(_mean(mine))
    return {
        "split_half": kept / of if of else np.nan,
        "micro": sum(number[one].max() for one in ids) / len(token_id) if ids else np.nan,
        "macro": np.mean(list(share.values())) if ids else np.nan,
        "macro_often": np.mean([share[one] for one in often]) if often else np.nan,
        "experts": led,
    }


def _mean(weighted: list[tuple[float, float]]) -> float:
    return sum(v * w for v, w in weighted) / sum(w for _, w in weighted) if weighted else np.nan


def expected(made: list[Case], layer: int, rank: int, leave_out: int | None = None) -> list[float]:
    """All measures by input token of one layer of some datasets, at the first `rank` ranks, without a group."""
    token_id, selected, groups = [], [], []
    for one in made:
        group = one.group
        kept = np.flatnonzero(group != leave_out)
        token_id += one.token_id[kept].tolist()
        selected += one.layers[layer]["selected_expert"].values[kept, :rank].tolist()
        groups += group[kept].tolist()
    halves = chapter.halves(SEED)[:, groups]
    found = by_hand(token_id, selected, halves, made[0].layers[layer].sizes["expert"])
    return [*(found[name] for name in chapter.BY_LAYER), *found["experts"]]


# ---------------------------------------------------------------- measures


def measures(code: np.ndarray, group: np.ndarray, selected: np.ndarray, experts: int) -> np.ndarray:
    """The measures of tokens with given types, groups and selections: (draw, selection, measure)."""
    tokens = np.arange(len(code))
    found = vocabulary.Occurrences(tokens, np.arange(code.max() + 1), code.astype(np.int32), group.astype(np.int8))
    even = np.arange(clusters.GROUPS)[None] % 2 == 0
    return chapter.observed(found, selected.astype(np.uint8), experts, even)


def of_counts(number: list | np.ndarray) -> np.ndarray:
    """The measures of first choices, from how many tokens of a type an expert gets: (half, expert, type)."""
    number = np.array(number)
    half, expert, code = (np.repeat(index.ravel(), number.ravel()) for index in np.indices(number.shape))
    return measures(code, half, expert[:, None], number.shape[1])[0, 0]


def test_measures_by_hand():
    # Two experts and three ids. Id 0: 8 + 4 tokens, id 1: 2 + 1, id 2 only in the even half, once.
    even, odd = [[6, 0, 1], [2, 2, 0]], [[1, 1, 0], [3, 0, 0]]
    # Split-half: id 0 goes to expert 0 by the even half (1 of 4 in the other), to 1 by the odd one (2 of 8);
    # id 1 goes to expert 1 by the even half (0 of 1), to 0 by the odd one (0 of 2).
    found = of_counts([even, odd])
    assert found[:4].tolist() == pytest.approx([3 / 15, (7 + 2 + 1) / 16, (7 / 12 + 2 / 3 + 1) / 3, 7 / 12])
    # Id 0 alone occurs ten times, and expert 0 gets most of it.
    assert found[4:].tolist() == pytest.approx([7 / 12, np.nan], nan_ok=True)


def test_experts_that_share_the_maximum_share_the_id():
    found = of_counts([[[6], [6], [0]], [[2], [0], [1]]])
    # By the even half experts 0 and 1 are as good, they get 2 and 0 of the odd half; by the odd one expert 0 gets 6.
    assert found[0] == pytest.approx((1 + 6) / 15)
    found = of_counts([[[6], [6], [0]], [[0], [0], [0]]])
    assert found.tolist() == pytest.approx([np.nan, 0.5, 0.5, 0.5, 0.5, 0.5, np.nan], nan_ok=True)


counts = st.lists(st.tuples(st.integers(0, 2), st.permutations(range(3)), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(1, 3))
def test_measures_equal_their_definitions(tokens, rank):
    token_id, selected, odd = [one[0] for one in tokens], [one[1][:rank] for one in tokens], [one[2] for one in tokens]
    found = measures(np.array(token_id), np.array(odd), np.array(selected), 3)[0, 1]
    wanted = by_hand(token_id, selected, np.array([odd]), 3)
    np.testing.assert_allclose(found, [*(wanted[name] for name in chapter.BY_LAYER), *wanted["experts"]], rtol=1e-12)


@pytest.fixture(scope="module")
def study() -> dict[str, Case]:
    rng = np.random.default_rng(3)
    return {
        "poems": vocabulary_case(rng, [20, 31, 18, 25, 9, 40], 1.5),
        "code": vocabulary_case(rng, [22, 16, 35, 12, 14, 19, 8], 1.5),
    }


@pytest.fixture(scope="module")
def metrics(study, tmp_path_factory) -> xr.Dataset:
    predicted = {name: (one.token_id + 1) % 12 for name, one in study.items()}
    return measured(chapter.measure, study, tmp_path_factory.mktemp("study"), predicted)


@pytest.mark.slow
def test_a_study_equals_the_definitions_with_every_group_left_out(study, metrics):
    for dataset, made in (("pooled", list(study.values())), ("poems", [study["poems"]]), ("code", [study["code"]])):
        for layer in (0, 2):
            for selection_, rank in (("first", 1), ("selected", 2)):
                draws = [expected(made, layer, rank, group) for group in (None, *range(clusters.GROUPS))]
                intervals = uncertainty.jackknife(xr.DataArray(draws, dims=("draw", "measure")), bounds=(0, 1))
                found = metrics.sel(layer=layer, selection=selection_, kind="input")
                for index, name in enumerate(chapter.BY_LAYER):
                    np.testing.assert_allclose(found[name].sel(dataset=dataset), intervals[index], rtol=1e-9)
                if dataset == "pooled":
                    np.testing.assert_allclose(found["expert_specialization"], intervals[4:], rtol=1e-9)


def test_differences_are_those_of_the_draws(study, metrics):
    made, draws = list(study.values()), defaultdict(list)
    for group in (None, *range(clusters.GROUPS)):
        for layer in (0, 2):
            draws[layer].append(expected(made, layer, 1, group)[0])
    rise = uncertainty.jackknife(xr.DataArray(np.array(draws[2]) - draws[0], dims="draw"), bounds=(-1, 1))
    found = metrics.sel(dataset="pooled", kind="input", selection="first")
    np.testing.assert_allclose(found["rise"], rise, rtol=1e-9)
    mean = uncertainty.jackknife(xr.DataArray((np.array(draws[2]) + draws[0]) / 2, dims="draw"))
    np.testing.assert_allclose(found["mean_over_layers_split_half"], mean, rtol=1e-9)
    assert (found["input_advantage"] == 0).all()
    # A predicted token that is a function of the input token tells the same.
    np.testing.assert_allclose(metrics["input_advantage"].sel(dataset="pooled", kind="predicted"), 0, atol=1e-12)


def test_other_kinds_are_pooled_only(metrics):
    single, pooled = metrics.isel(dataset=slice(1, None)), metrics.sel(dataset="pooled")
    for name in chapter.BY_LAYER:
        assert single[name].sel(kind=["next", "predicted"]).isnull().all()
        assert single[name].sel(kind="input").notnull().all() and pooled[name].notnull().all()
        xr.testing.assert_allclose(
            pooled[name].sel(kind="predicted", drop=True), pooled[name].sel(kind="input", drop=True)
        )
    rows = chapter.table(metrics)
    assert len(rows) == 4 * (2 + 1) * 2 * (3 + 2) and rows.drop(columns="layer").notna().all(axis=None)
    assert (rows["layer"].isna() == rows["measure"].str.startswith("mean_over_layers_")).all()
    one = rows[(rows["measure"] == "macro") & (rows["dataset"] == "code") & (rows["layer"] == 2)].iloc[1]
    where = {"dataset": "code", "layer": 2, "kind": "input", "selection": one["selection"]}
    assert one[PARTS].tolist() == metrics["macro"].sel(where).sel(interval=PARTS).values.tolist()
    assert one["token_independent"] == metrics["null_macro"].sel(where).sel(interval="estimate").item()
    one = rows[(rows["measure"] == "mean_over_layers_macro") & (rows["dataset"] == "code")].iloc[1]
    where = {"dataset": "code", "kind": "input", "selection": one["selection"], "interval": PARTS}
    assert one[PARTS].tolist() == metrics["mean_over_layers_macro"].sel(where).values.tolist()
    null = metrics["mean_over_layers_null_macro"].sel(where | {"interval": "estimate"})
    assert one["token_independent"] == null.item()


def test_the_next_token_is_counted_in_its_window(study, tmp_path):
    made = {name: replace(one, window=7) for name, one in study.items()}
    found = measured(chapter.measure, made, tmp_path)["macro"].sel(dataset="pooled", kind="next", interval="estimate")
    for layer in (0, 2):
        token_id, selected = [], []
        for one in made.values():
            following = routed.next_token(one.token_id, one.tokens["position"].values)
            kept = following != -1
            token_id += following[kept].tolist()
            selected += one.layers[layer]["selected_expert"].values[kept, :1].tolist()
        wanted = by_hand(token_id, selected, np.zeros((1, len(token_id))), 6)["macro"]
        assert found.sel(layer=layer, selection="first").item() == pytest.approx(wanted)


def test_one_expert_for_every_id(tmp_path):
    token_id = [0, 1, 2, 0, 1, 2] * 20
    made = {"poems": selection(token_id, [[x, 3] for x in token_id], 4, [6] * 20)}
    found = measured(chapter.measure, made, tmp_path).sel(kind="input", dataset="pooled", layer=0)
    for name in chapter.BY_LAYER:
        assert (found[name] == 1).all()
    assert (found["null_micro"].sel(selection="first") < 0.6).all()
    # Expert 3, the second choice of every token, gets all of all ids; so it shares the lead.
    assert found["expert_specialization"].sel(selection="selected", interval="estimate").values.tolist() == [1, 1, 1, 1]
    first = found["expert_specialization"].sel(selection="first", interval="estimate")
    assert first.values.tolist() == pytest.approx([1, 1, 1, np.nan], nan_ok=True)


def test_ids_that_occur_once_are_specialized_by_necessity(tmp_path):
    made = {"poems": selection(list(range(30)), [[x % 3, 3] for x in range(30)], 4, [6] * 5)}
    found = measured(chapter.measure, made, tmp_path).sel(kind="input", dataset="pooled", layer=0)
    for name in ("macro", "micro", "null_macro", "null_micro"):
        assert (found[name] == 1).all()
    assert found["split_half"].isnull().all() and found["macro_often"].isnull().all()


@pytest.mark.slow
def test_routing_that_ignores_the_token_is_at_its_null(tmp_path):
    rng, found = np.random.default_rng(5), defaultdict(list)
    for number in range(12):
        made = {"poems": vocabulary_case(rng, [60] * 20, 0.0, layers=(0,), types=40)}
        one = measured(chapter.measure, made, tmp_path / str(number), seed=number).sel(kind="input", dataset="pooled")
        for name in chapter.BY_LAYER:
            found[name].append((one[name] - one[f"null_{name}"]).sel(interval="estimate").values.ravel())
    for differences in found.values():
        mean, error = np.mean(differences, axis=0), np.std(differences, axis=0, ddof=1) / np.sqrt(12)
        assert (np.abs(mean) < 4 * error).all()
        assert (np.abs(mean) < 0.02).all()


def test_split_half_is_the_load_of_an_expert_when_routing_ignores_the_token():
    # Uniform first choices: the expert of an id is any, and gets 1 / E of the other half.
    rng = np.random.default_rng(2)
    number = rng.multinomial(5, np.full(8, 1 / 8), size=(2, 4000)).transpose(0, 2, 1)
    found = of_counts(number)
    assert found[0] == pytest.approx(1 / 8, abs=0.005)
    # The largest of 8 counts of 10 tokens is at most m with probability 10! / 8^10 [x^10] (sum_{j <= m} x^j / j!)^8.
    powers = [np.polynomial.polynomial.polypow([1 / math.factorial(j) for j in range(m + 1)], 8) for m in range(11)]
    at_most = [math.factorial(10) / 8**10 * (power[10] if len(power) > 10 else 0) for power in powers]
    assert found[1] == pytest.approx(sum(1 - p for p in at_most) / 10, abs=0.005)
    assert found[1] > 0.29


def test_the_null_does_not_depend_on_the_experts_names_and_permutations_move_nothing(study, metrics, tmp_path):
    new_number = np.array([3, 5, 0, 2, 1, 4])
    renamed = {name: one.permute_experts(new_number) for name, one in study.items()}
    predicted = {name: (one.token_id + 1) % 12 for name, one in study.items()}
    found = measured(chapter.measure, renamed, tmp_path, predicted)
    for name in chapter.BY_LAYER:
        xr.testing.assert_allclose(found[name], metrics[name], rtol=1e-9)
        xr.testing.assert_allclose(found[f"null_{name}"], metrics[f"null_{name}"], rtol=1e-9)
    for name in ("expert_specialization", "null_expert_specialization", "led_ids", "top_count"):
        np.testing.assert_allclose(found[name].isel(expert=new_number), metrics[name], rtol=1e-9, atol=1e-12)


def test_splitting_documents_changes_no_count(study, metrics, tmp_path):
    halved = {}
    for name, one in study.items():
        lengths = np.concatenate([[length // 2, length - length // 2] for length in one.lengths])
        documents = {each: np.repeat(values, 2) for each, values in one.documents.items()}
        halved[name] = replace(one, lengths=lengths, documents=documents)
    found = measured(chapter.measure, halved, tmp_path)
    for name in ("micro", "macro", "macro_often"):
        estimates = [each[name].sel(kind="input", interval="estimate") for each in (found, metrics)]
        xr.testing.assert_allclose(*estimates, rtol=1e-9)
    np.testing.assert_array_equal(found["top_count"].sel(kind="input"), metrics["top_count"].sel(kind="input"))


def test_intervals_cover_the_expected_value():
    """Ids with random favourite experts, documents with random subjects: the truth is the mean over samples."""
    rng, samples = np.random.default_rng(11), 600
    favourite = rng.integers(0, 4, 30)
    draws = np.empty((samples, 1 + clusters.GROUPS, 3))
    for sample in range(samples):
        lengths = rng.integers(15, 40, 60)
        owner = np.repeat(np.arange(60), lengths)
        subject = rng.integers(0, 30, 60)[owner]
        token_id = np.where(rng.random(len(owner)) < 0.2, subject, rng.integers(0, 30, len(owner)))
        expert = np.where(rng.random(len(owner)) < 0.5, favourite[token_id], rng.integers(0, 4, len(owner)))
        draws[sample] = measures(token_id, owner % clusters.GROUPS, expert[:, None], 4)[:, 0, :3]
    intervals = uncertainty.jackknife(xr.DataArray(draws, dims=("sample", "draw", "measure")))
    truth = draws[:, 0].mean(axis=0)
    covered = (intervals.sel(interval="low") <= truth) & (truth <= intervals.sel(interval="high"))
    assert (abs(covered.mean("sample") - 0.95) <= 0.02).all()


# ---------------------------------------------------------------- top tokens


def test_top_tokens_by_hand():
    # Id 5: 12 tokens, 9 to expert 1; id 7: 20, all to expert 1; id 9: 10, 9 to expert 1; id 8 is too rare.
    token_id = np.array([5] * 12 + [7] * 20 + [8] * 9 + [9] * 10)
    selected = np.array([1] * 9 + [0] * 3 + [1] * 20 + [1] * 9 + [1] * 9 + [2])
    ids, code = np.unique(token_id, return_inverse=True)
    found = vocabulary.Occurrences(np.arange(51), ids, code.astype(np.int32), np.zeros(51, np.int8))
    top, share, count, led = chapter.top_tokens(found, selected[:, None], 4)
    assert top[:, 1, :4].tolist() == [[7, 9, 5, -1], [7, 9, 5, -1]]
    assert share[0, 1, :3].tolist() == [1, 0.9, 0.75] and np.isnan(share[0, 1, 3:]).all()
    assert count[1, 1, :4].tolist() == [20, 9, 9, 0]
    assert top[0, :, 0].tolist() == [5, 7, 9, -1] and led.tolist() == [0, 3, 0, 0]


def test_the_order_of_top_tokens():
    # By share: equal shares by count, then by id. By count: equal counts by share.
    token_id = np.repeat([3, 4, 6, 8], [10, 10, 20, 15])
    selected = np.concatenate([np.zeros(55, int)[:40], np.repeat([0, 1], [10, 5])])
    ids, code = np.unique(token_id, return_inverse=True)
    found = vocabulary.Occurrences(np.arange(55), ids, code.astype(np.int32), np.zeros(55, np.int8))
    top, *_ = chapter.top_tokens(found, selected[:, None], 2)
    assert top[:, 0, :5].tolist() == [[6, 3, 4, 8, -1], [6, 3, 4, 8, -1]]


def texts(ids: np.ndarray) -> list[str]:
    return [f"<{number}>" for number in ids]


def test_the_table_of_top_tokens_has_their_texts(metrics):
    rows = chapter.top_table(chapter.with_texts(metrics, texts))
    assert list(rows.columns) == ["kind", "layer", "expert", "order", "place", "token_id", "token", "share", "count"]
    assert len(rows) == (metrics["top_token"] != -1).sum() > 0
    assert (rows["token"] == [f"<{number}>" for number in rows["token_id"]]).all()
    for _, row in rows.iloc[::17].iterrows():
        where = {name: row[name] for name in ("kind", "layer", "expert", "order")}
        at = metrics.sel(where).isel(place=row["place"] - 1)
        assert (at["top_token"], at["top_share"], at["top_count"]) == (row["token_id"], row["share"], row["count"])


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def pairs(metrics, tmp_path_factory):
    """(trained, untrained) metrics: two layers and three kinds; one layer, two kinds, few tokens and no untrained."""
    rng = np.random.default_rng(8)
    untrained = {name: vocabulary_case(rng, [30] * 6, 0.2) for name in ("poems", "code")}
    predicted = {name: one.token_id for name, one in untrained.items()}
    few = {"poems": vocabulary_case(rng, [9, 14], 1.0, layers=(4,), top_k=6)}
    made = [
        measured(chapter.measure, untrained, tmp_path_factory.mktemp("untrained"), predicted),
        measured(chapter.measure, few, tmp_path_factory.mktemp("few")),
    ]
    untrained, few = (chapter.with_texts(each, texts) for each in made)
    return [(chapter.with_texts(metrics, texts), untrained), (few, None)]


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_every_figure_has_words_and_can_be_drawn(pairs, which):
    metrics, untrained = pairs[which]
    figures = page.figures(Seen(metrics, untrained))
    assert len({figure.name for figure in figures}) == len({figure.title for figure in figures}) == 7
    for figure in figures:
        assert len(figure.alt) >= 40 and isinstance(figure.data, pd.DataFrame)
        for text in (figure.alt, figure.caption, figure.how_to_read):
            assert text.endswith(".") and "None" not in text and "nan" not in text and "untrained" not in text
        figure.drawing.draw_without_rendering()
    findings = page.findings(seen(metrics, untrained))
    # Two documents in the same half: there is no split-half value, and nothing is said about it.
    assert len(findings) == (5 if which == 0 else 1)
    for one in findings:
        assert one.figure in {figure.name for figure in figures} and one.verdict in render.VERDICTS
        assert one.question.endswith("?") and one.answer.endswith(".") and np.isfinite(one.null_value)
        assert (one.reference_value is None) == (untrained is None)


def finding(metrics: xr.Dataset, number: int, untrained: xr.Dataset | None = None):
    return page.findings(seen(metrics, untrained))[number]


@pytest.mark.parametrize(
    ("shift", "verdict"), [((0.2, 0.1, 0.3), "yes"), ((-0.02, -0.03, -0.01), "no"), ((0, -0.1, 0.1), "unclear")]
)
@pytest.mark.parametrize(("number", "name"), [(0, "split_half"), (1, "macro")])
def test_findings_compare_with_token_independent_routing(pairs, shift, verdict, number, name):
    metrics = pairs[0][0].copy(deep=True)
    where = {"dataset": "pooled", "kind": "input", "selection": "first"}
    null = metrics[f"mean_over_layers_null_{name}"].sel(where).sel(interval="estimate").item()
    metrics[f"mean_over_layers_{name}"].loc[where] = null + np.array(shift)
    one = finding(metrics, number)
    assert (one.verdict, one.null_value) == (verdict, pytest.approx(null))
    assert (one.estimate, one.low, one.high) == tuple(null + np.array(shift))
    assert percent(vars(one)) in one.answer


def test_in_brief_the_token_decides_or_nothing_shows_that_it_does(pairs):
    metrics = pairs[0][0].copy(deep=True)
    where = {"dataset": "pooled", "kind": "input", "selection": "first"}
    metrics["mean_over_layers_null_split_half"].loc[where] = 0.2
    metrics["mean_over_layers_split_half"].loc[where] = [0.7, 0.65, 0.75]
    metrics["null_expert_specialization"][...] = 0.4
    experts = metrics["expert_specialization"]
    experts.loc[{"kind": "input", "selection": "first"}] = [0.3, 0.1, 0.5]
    layer = int(metrics["layer"][1])
    metrics["led_ids"].loc[{"kind": "input", "layer": layer, "expert": 3}] = 9
    experts.loc[{"kind": "input", "selection": "first", "layer": layer, "expert": 3}] = [0.9, 0.85, 0.95]
    found = page.brief(seen(metrics))
    assert "decides strongly where it goes: 70.0 % of tokens" in found.text and "matter, 20 % would." in found.text
    assert found.example.startswith(
        f"Layer {layer} expert 3 is the first choice of 90.0 % of the tokens whose id it leads"
    )
    assert (found.layer, found.experts) == (layer, (3,))
    metrics["mean_over_layers_split_half"].loc[where] = [0.2, 0.15, 0.25]
    none = page.brief(seen(metrics))
    assert (none.text, none.example) == ("Nothing shows that the token decides which expert it is sent to.", "")
    assert page.brief(seen(*pairs[1])) is None  # there is no split-half value


@pytest.mark.parametrize(
    ("value", "word"), [((0.9, 0.85, 0.95), "more than"), ((0.1, 0.05, 0.15), "fewer than"), ((0.5, 0.1, 0.9), "about")]
)
def test_the_finding_on_the_token_follows_both_models(pairs, value, word):
    metrics, untrained = (each.copy(deep=True) for each in pairs[0])
    where = {"dataset": "pooled", "kind": "input", "selection": "first"}
    metrics["mean_over_layers_split_half"].loc[where] = list(value)
    untrained["mean_over_layers_split_half"].loc[where] = [0.5, 0.45, 0.55]
    assert word in finding(metrics, 0, untrained).answer


@pytest.mark.parametrize(
    ("value", "verdict", "input_or", "layers"),
    [
        ((0.2, 0.1, 0.3), "yes", "input token tells more", "more than"),
        ((-0.2, -0.3, -0.1), "no", "predicted token tells more", "less than"),
        ((0.0, -0.1, 0.1), "unclear", "about as much", "about as much"),
    ],
)
def test_the_findings_on_kinds_and_on_depth(pairs, value, verdict, input_or, layers):
    metrics = pairs[0][0].copy(deep=True)
    first = {"dataset": "pooled", "selection": "first"}
    metrics["mean_over_layers_input_advantage"].loc[first | {"kind": "predicted"}] = list(value)
    metrics["rise"].loc[first | {"kind": "input"}] = list(value)
    kinds, depth = finding(metrics, 2), finding(metrics, 3)
    assert (kinds.verdict, kinds.estimate, kinds.null_value) == (verdict, value[0], 0) and input_or in kinds.answer
    assert (depth.verdict, depth.estimate, depth.null_value) == (verdict, value[0], 0)
    assert f"In layer 2 it tells {layers}" in depth.answer


def test_tokens_in_row_labels_are_short_and_have_letters_of_the_font():
    assert page._shown(" the") == "‘·the’"
    assert page._shown("中") == r"‘\u4e2d’"
    assert page._shown("abcdefghijk") == "‘abcdefgh…’"
