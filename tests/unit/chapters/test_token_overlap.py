from dataclasses import replace
from functools import partial
from itertools import combinations, product

import numpy as np
import page_cases
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import Case
from vocabulary_cases import measured, selection, vocabulary_case

from gatebook.chapters.base.page import Seen, rounded
from gatebook.chapters.token_overlap import measure as token_overlap
from gatebook.chapters.token_overlap import page
from gatebook.figures.matrix import clustered_order
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty
from gatebook.report import render

seen = partial(page_cases.seen, "token_overlap")

pytestmark = pytest.mark.filterwarnings("error")

PARTS = ["estimate", "low", "high"]


def measure(study: dict[str, Case], folder, **options) -> xr.Dataset:
    return measured(token_overlap.measure, study, folder, **({"rarefied_tokens": 10} | options))


def ruzicka(first: list[int], second: list[int]) -> float:
    shares = [np.array(one) / sum(one) for one in (first, second)]
    return np.minimum(*shares).sum() / np.maximum(*shares).sum()


def expected_jaccard(first: list[int], second: list[int], tokens: int) -> float:
    """Ratio of the mean intersection and union over all samples of so many tokens of each of two experts."""
    samples = []
    for counts in (first, second):
        ids = [one for one, count in enumerate(counts) for _ in range(count)]
        samples.append([set(sample) for sample in combinations(ids, tokens)])
    both, either = (
        sum(len(operation(a, b)) for a, b in product(*samples)) for operation in (set.intersection, set.union)
    )
    return both / either


# ---------------------------------------------------------------- two experts


def test_weighted_jaccard_by_hand():
    # Shares 1/2, 1/2, 0 and 1/4, 0, 3/4: minima 1/4, maxima 1/2 + 1/2 + 3/4.
    assert token_overlap.weighted_jaccard(np.array([[2, 2, 0], [1, 0, 3]])).tolist() == pytest.approx([1 / 7])


def test_the_ends_of_weighted_jaccard():
    number = np.array([[1, 2, 0], [3, 6, 0], [0, 0, 5], [0, 0, 0]])
    # Pairs 01, 02, 03, 12, 13, 23: the same shares, nothing shared, and an expert without tokens.
    wanted = [1, 0, np.nan, 0, np.nan, np.nan]
    assert token_overlap.weighted_jaccard(number).tolist() == pytest.approx(wanted, nan_ok=True)


def test_rarefied_jaccard_of_one_token_each():
    # One token each: the same id with probability sum a_i a_j = (1 * 3 + 3 * 1) / 16; the union is then 1, else 2.
    found = token_overlap.rarefied_jaccard(np.array([[1, 3], [3, 1]]), 1)
    assert found.tolist() == pytest.approx([(6 / 16) / (2 - 6 / 16)])


def test_rarefied_jaccard_of_all_tokens_is_the_jaccard_of_the_sets():
    number = np.array([[2, 1, 1, 0], [0, 3, 0, 1]])
    assert token_overlap.rarefied_jaccard(number, 4).tolist() == pytest.approx([1 / 4])


def test_experts_with_too_few_tokens_have_no_rarefied_jaccard():
    found = token_overlap.rarefied_jaccard(np.array([[2, 2], [1, 2], [3, 1], [0, 0]]), 4)
    assert np.isfinite(found).tolist() == [False, True, False, False, False, False]
    assert np.isnan(token_overlap.rarefied_jaccard(np.zeros((3, 2), int), 1)).all()


expert = st.lists(st.integers(0, 2), min_size=4, max_size=4).filter(lambda counts: sum(counts) >= 3)


@settings(max_examples=40, deadline=None)
@given(expert, expert, expert, st.integers(1, 3))
def test_both_equal_their_definitions(first, second, third, tokens):
    number, pairs = np.array([first, second, third]), ((first, second), (first, third), (second, third))
    weighted, rarefied = token_overlap.weighted_jaccard(number), token_overlap.rarefied_jaccard(number, tokens)
    np.testing.assert_allclose(weighted, [ruzicka(*pair) for pair in pairs], atol=1e-12)
    np.testing.assert_allclose(rarefied, [expected_jaccard(*pair, tokens) for pair in pairs], rtol=1e-9)


def test_rarefied_jaccard_does_not_grow_with_the_number_of_tokens():
    rng = np.random.default_rng(4)
    shares = rng.dirichlet(np.full(200, 0.3), size=2)
    small, large = (np.array([rng.multinomial(tokens, share) for share in shares]) for tokens in (2000, 200_000))
    found = [token_overlap.rarefied_jaccard(number, 100).item() for number in (small, large)]
    assert found[0] == pytest.approx(found[1], rel=0.1)
    plain = [(number > 0).all(axis=0).sum() / (number > 0).any(axis=0).sum() for number in (small, large)]
    assert plain[1] > 1.3 * plain[0]


# ---------------------------------------------------------------- a study


@pytest.fixture(scope="module")
def study() -> dict[str, Case]:
    rng = np.random.default_rng(3)
    return {
        "poems": vocabulary_case(rng, [20, 31, 18, 25, 9, 40], 1.5),
        "code": vocabulary_case(rng, [22, 16, 35, 12, 14, 19, 8], 1.5),
    }


@pytest.fixture(scope="module")
def metrics(study, tmp_path_factory) -> xr.Dataset:
    return measure(study, tmp_path_factory.mktemp("study"))


def counts(made: list[Case], layer: int, leave_out: int | None = None) -> np.ndarray:
    """N(x, e) (expert, type) token by token, without a group of documents."""
    number = np.zeros((6, 12), dtype=int)
    for one in made:
        for token, chosen in enumerate(one.layers[layer]["selected_expert"].values):
            if one.group[token] != leave_out:
                number[chosen, one.token_id[token]] += 1
    return number


def test_a_study_equals_the_definitions_with_every_group_left_out(study, metrics):
    made, means = list(study.values()), {"weighted_jaccard": [], "rarefied_jaccard": []}
    functions = {
        "weighted_jaccard": token_overlap.weighted_jaccard,
        "rarefied_jaccard": lambda number: token_overlap.rarefied_jaccard(number, 10),
    }
    for layer in (0, 2):
        numbers = [counts(made, layer, group) for group in (None, *range(GROUPS))]
        for name, function in functions.items():
            pairs = [function(number) for number in numbers]
            upper = metrics[name].sel(layer=layer).values[np.triu_indices(6, 1)]
            np.testing.assert_allclose(upper, pairs[0], rtol=1e-12)
            means[name].append(np.mean(pairs, axis=1))
    for name, values in means.items():
        draws = xr.DataArray(values, dims=("layer", "draw"))
        interval = uncertainty.jackknife(draws, bounds=(0, 1))
        np.testing.assert_allclose(metrics[f"mean_{name}"].sel(dataset="pooled"), interval, rtol=1e-9)
        interval = uncertainty.jackknife(draws.mean("layer"), bounds=(0, 1))
        np.testing.assert_allclose(metrics[f"mean_over_layers_mean_{name}"].sel(dataset="pooled"), interval, rtol=1e-9)
        interval = uncertainty.jackknife(draws[1] - draws[0], bounds=(-1, 1))
        np.testing.assert_allclose(metrics[f"rise_{name}"].sel(dataset="pooled"), interval, rtol=1e-9)
    assert metrics["tokens"].values.tolist() == [sum(len(one.token_id) for one in made)]
    assert metrics["documents"].values.tolist() == metrics["clusters"].values.tolist() == [13]


def test_pairs_are_symmetric_matrices(metrics):
    for name in ("weighted_jaccard", "rarefied_jaccard", "null_weighted_jaccard", "null_rarefied_jaccard"):
        matrices = metrics[name]
        assert matrices.dims == ("layer", "expert", "other")
        np.testing.assert_array_equal(matrices, matrices.values.swapaxes(1, 2))
        assert np.isnan(matrices.values[:, range(6), range(6)]).all()
        assert matrices.notnull().sum() == 2 * 30


def test_experts_of_their_own_words_and_experts_that_are_always_selected(tmp_path):
    token_id = [0, 1, 2, 3] * 30
    made = {"poems": selection(token_id, [[x % 2, 2, 3] for x in token_id], 4, [12] * 10)}
    found = measure(made, tmp_path).isel(layer=0)
    weighted = found["weighted_jaccard"].values
    assert weighted[0, 1] == 0 and weighted[2, 3] == pytest.approx(1)
    # Expert 0 gets half of the ids that expert 2 gets: shares 1/2, 0, 1/2, 0 and 1/4 each.
    assert weighted[0, 2] == pytest.approx(1 / 3)
    assert found["null_weighted_jaccard"].values[0, 1] > 0.6


@pytest.mark.slow
def test_routing_that_ignores_the_token_is_at_its_null(tmp_path):
    rng, found = np.random.default_rng(5), []
    for number in range(16):
        made = {"poems": vocabulary_case(rng, [60] * 20, 0.0, layers=(0,), types=40)}
        one = measure(made, tmp_path / str(number), seed=number)
        found.append(
            [
                (one[f"mean_{name}"] - one[f"null_mean_{name}"]).sel(interval="estimate").item()
                for name in ("weighted_jaccard", "rarefied_jaccard")
            ]
        )
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / 4
    assert (np.abs(mean) < 4 * error).all() and (np.abs(mean) < 0.01).all()


def test_renaming_experts_renames_the_pairs(study, metrics, tmp_path):
    new_number = np.array([3, 5, 0, 2, 1, 4])
    found = measure({name: one.permute_experts(new_number) for name, one in study.items()}, tmp_path)
    for name in ("weighted_jaccard", "null_weighted_jaccard", "rarefied_jaccard", "null_rarefied_jaccard"):
        renamed = found[name].isel(expert=new_number, other=new_number)
        np.testing.assert_allclose(renamed, metrics[name], rtol=1e-9)
    for name in ("mean_weighted_jaccard", "mean_rarefied_jaccard"):
        xr.testing.assert_allclose(found[name], metrics[name], rtol=1e-9)


def test_splitting_documents_changes_no_pair(study, metrics, tmp_path):
    halved = {}
    for name, one in study.items():
        lengths = np.concatenate([[length // 2, length - length // 2] for length in one.lengths])
        documents = {each: np.repeat(values, 2) for each, values in one.documents.items()}
        halved[name] = replace(one, lengths=lengths, documents=documents)
    found = measure(halved, tmp_path)
    for name in ("weighted_jaccard", "rarefied_jaccard"):
        xr.testing.assert_allclose(found[name], metrics[name], rtol=1e-12)


@pytest.mark.slow
def test_intervals_cover_the_expected_value():
    """Documents with random subjects; the truth is the mean over samples."""
    rng, samples = np.random.default_rng(12), 600
    affinity = rng.dirichlet(np.full(4, 0.5), size=30).cumsum(axis=1)
    draws = np.empty((samples, 1 + GROUPS, 2))
    for sample in range(samples):
        owner = np.repeat(np.arange(60), rng.integers(15, 40, 60))
        subject = rng.integers(0, 30, 60)[owner]
        token_id = np.where(rng.random(len(owner)) < 0.2, subject, rng.integers(0, 30, len(owner)))
        chosen = (rng.random(len(owner))[:, None] > affinity[token_id]).sum(axis=1).clip(max=3)
        found = token_overlap.Occurrences(
            np.arange(len(owner)), np.arange(30), token_id.astype(np.int32), (owner % GROUPS).astype(np.int8)
        )
        for draw, number in enumerate(token_overlap.without_groups(found, chosen[:, None], 4)):
            draws[sample, draw] = (
                token_overlap.weighted_jaccard(number).mean(),
                token_overlap.rarefied_jaccard(number, 50).mean(),
            )
    intervals = uncertainty.jackknife(xr.DataArray(draws, dims=("sample", "draw", "measure")))
    truth = draws[:, 0].mean(axis=0)
    covered = (intervals.sel(interval="low") <= truth) & (truth <= intervals.sel(interval="high"))
    assert (abs(covered.mean("sample") - 0.95) <= 0.02).all()


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def pairs(metrics, tmp_path_factory):
    """(trained, untrained) metrics: two layers; one layer, too few tokens to be rarefied and no untrained model."""
    rng = np.random.default_rng(8)
    untrained = {name: vocabulary_case(rng, [30] * 6, 0.2) for name in ("poems", "code")}
    few = {"poems": vocabulary_case(rng, [9, 14], 1.0, layers=(4,), top_k=6)}
    return [
        (metrics, measure(untrained, tmp_path_factory.mktemp("untrained"))),
        (measure(few, tmp_path_factory.mktemp("few"), rarefied_tokens=100), None),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_every_figure_has_words_and_can_be_drawn(pairs, which):
    metrics, untrained = pairs[which]
    figures = page.figures(Seen(metrics, untrained))
    assert len({figure.name for figure in figures}) == len({figure.title for figure in figures}) == 4
    for figure in figures:
        assert len(figure.alt) >= 40 and isinstance(figure.data, pd.DataFrame)
        for text in (figure.alt, figure.caption, figure.how_to_read):
            assert text.endswith(".") and "None" not in text and "nan" not in text and "untrained" not in text
        figure.drawing.draw_without_rendering()
    findings = page.findings(seen(metrics, untrained))
    # Without enough tokens nothing is said about rarefied sets, and with one layer nothing about depth.
    assert len(findings) == (3 if which == 0 else 1)
    for one in findings:
        assert one.figure in {figure.name for figure in figures} and one.verdict in render.VERDICTS
        assert one.question.endswith("?") and one.answer.endswith(".") and np.isfinite(one.null_value)
        assert (one.reference_value is None) == (untrained is None)


def test_the_data_of_the_figures_are_the_metrics(pairs):
    metrics, untrained = pairs[0]
    data = {figure.name: figure.data for figure in page.figures(Seen(metrics, untrained))}
    rows = data["overlap_by_layer"]
    names = ("weighted_jaccard", "rarefied_jaccard")
    by_layer = [f"{part}mean_{name}" for name in names for part in ("", "", "mean_over_layers_")]
    assert rows["measure"].tolist() == by_layer + [f"rise_{name}" for name in names]
    assert rows["layer"].dropna().tolist() == [0, 2, 0, 2]
    for _, row in rows.iterrows():
        where = {} if pd.isna(row["layer"]) else {"layer": row["layer"]}
        values = metrics[row["measure"]].sel({"dataset": "pooled", "interval": PARTS} | where)
        assert row[PARTS].tolist() == values.values.tolist()
        if row["measure"].startswith("rise"):
            assert np.isnan(row["token_independent"])
        else:
            null = f"null_{row['measure']}".replace("null_mean_over_layers_", "mean_over_layers_null_")
            assert row["token_independent"] == metrics[null].sel(where | {"interval": "estimate"})
    rows = data["clustered_overlap"]
    assert len(rows) == 2 * 15
    for _, row in rows.iterrows():
        at = {name: int(row[name]) for name in ("layer", "expert", "other")}
        assert row["weighted_jaccard"] == metrics["weighted_jaccard"].sel(at)
        order = clustered_order(metrics["weighted_jaccard"].sel(layer=at["layer"]).values)
        for name in ("expert", "other"):
            assert order[int(row[f"place_of_{name}"])] == at[name]
    rows = data["overlap_distribution"].set_index(["layer", "quantile"])["weighted_jaccard"]
    for layer in (0, 2):
        matrix = metrics["weighted_jaccard"].sel(layer=layer).values
        assert rows[layer, 0.9] == pytest.approx(np.quantile(matrix[np.triu_indices(6, 1)], 0.9))
    rows = data["overlap_by_expert"].set_index(["layer", "expert"])["overlap"]
    assert rows[2, 3] == pytest.approx(np.nanmean(metrics["weighted_jaccard"].sel(layer=2).values[3]))


@pytest.mark.parametrize(
    ("shift", "verdict", "word"),
    [((-0.2, -0.3, -0.1), "yes", "less"), ((0.02, 0.01, 0.03), "no", "more"), ((0, -0.1, 0.1), "unclear", "about")],
)
@pytest.mark.parametrize(("number", "name"), [(0, "weighted_jaccard"), (1, "rarefied_jaccard")])
def test_findings_compare_with_token_independent_routing(pairs, shift, verdict, word, number, name):
    metrics = pairs[0][0].copy(deep=True)
    null = metrics[f"mean_over_layers_null_mean_{name}"].sel(interval="estimate").item()
    metrics[f"mean_over_layers_mean_{name}"].loc[{"dataset": "pooled"}] = null + np.array(shift)
    one = page.findings(seen(metrics))[number]
    assert (one.verdict, one.null_value) == (verdict, pytest.approx(null))
    assert (one.estimate, one.low, one.high) == tuple(null + np.array(shift))
    assert f"{word} " in one.answer and rounded(vars(one)) in one.answer


def test_in_brief_experts_share_less_than_chance_or_nothing_shows_that_they_do(pairs):
    metrics = pairs[0][0].copy(deep=True)
    layer = int(metrics["layer"][1])
    mean = metrics["mean_over_layers_mean_weighted_jaccard"]
    null = float(metrics["mean_over_layers_null_mean_weighted_jaccard"].sel(interval="estimate"))
    mean.loc[{"dataset": "pooled"}] = [null / 4, null / 5, null / 3]
    metrics["weighted_jaccard"].loc[{"layer": layer, "expert": 1, "other": 4}] = 0.987
    found = page.brief(seen(metrics))
    assert found.text.startswith("Two experts of a layer share less vocabulary than chance: they overlap by ")
    assert found.example == f"Of all 30 pairs experts 1 and 4 of layer {layer} share most: 0.99."
    assert (found.layer, found.experts) == (layer, (1, 4))
    mean.loc[{"dataset": "pooled"}] = [null, null / 2, 2 * null]
    found = page.brief(seen(metrics))
    assert found.text == "Nothing shows that experts share less vocabulary than chance." and found.experts == ()


@pytest.mark.parametrize(
    ("value", "verdict", "words"),
    [
        ((0.2, 0.1, 0.3), "yes", "more than"),
        ((-0.2, -0.3, -0.1), "no", "less than"),
        ((0, -0.1, 0.1), "unclear", "about"),
    ],
)
def test_the_finding_on_depth(pairs, value, verdict, words):
    metrics = pairs[0][0].copy(deep=True)
    metrics["rise_weighted_jaccard"].loc[{"dataset": "pooled"}] = list(value)
    one = page.findings(seen(metrics))[2]
    assert (one.verdict, one.estimate, one.null_value) == (verdict, value[0], 0)
    assert f"In layer 2 they share {words}" in one.answer
