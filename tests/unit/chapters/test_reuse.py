"""Reuse: caches by hand, as textbooks have them, and by brute force; planted and uniform routing; the page."""

from functools import partial
from itertools import combinations

import numpy as np
import page_cases
import pytest
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.reuse import ACROSS, TEXT, WITHIN, page
from gatebook.chapters.reuse.caches import depths, optimal, told
from gatebook.chapters.reuse.measure import measure
from gatebook.measures.uncertainty import POOLED
from gatebook.study import routed

seen = partial(page_cases.seen, "reuse")

pytestmark = pytest.mark.filterwarnings("error")

SILBERSCHATZ = [7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1]
BELADY = [1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5]
"""The reference strings of textbooks on operating systems."""


def one_by_one(string: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A reference string as selections of one expert each, from an empty cache."""
    return np.array(string)[:, None], np.arange(len(string)) == 0


# ---------------------------------------------------------------- caches


@pytest.mark.parametrize(
    ("string", "size", "faults"),
    [(SILBERSCHATZ, 3, 12), (SILBERSCHATZ, 4, 8), (BELADY, 3, 10), (BELADY, 4, 8), (BELADY, 5, 5)],
)
def test_the_most_recently_used_fault_as_often_as_in_textbooks(string, size, faults):
    selected, new = one_by_one(string)
    assert (depths(selected, new, 8) >= size).sum() == faults


@pytest.mark.parametrize(
    ("string", "size", "faults"),
    # Silberschatz: 7 0 1, 2 for 7, 3 for 1, 4 is not kept, 1 for 3, 7 is not kept. Textbooks, which keep all that was
    # fetched, have 9, for 0 makes room for 4. Belady: 1 2 3, and 4 5 4 5, which are not kept: 7, as in textbooks.
    [(SILBERSCHATZ, 3, 8), (BELADY, 3, 7)],
)
def test_the_optimum_by_hand(string, size, faults):
    selected, new = one_by_one(string)
    assert len(string) - optimal(selected, new, size, 8).sum() == faults


def most_hits(selected: np.ndarray, size: int) -> int:
    """The hits of the best of all that a cache may keep, by trying everything."""
    best = {frozenset(): 0}
    for token in map(frozenset, selected.tolist()):
        found: dict[frozenset, int] = {}
        for cache, hits in best.items():
            every = cache | token
            for kept in combinations(sorted(every), min(size, len(every))):
                found[frozenset(kept)] = max(found.get(frozenset(kept), 0), hits + len(cache & token))
        best = found
    return max(best.values())


def drawn(rng: np.random.Generator, tokens: int, experts: int, top_k: int) -> np.ndarray:
    return np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_cache_has_more_hits_than_the_optimum(size):
    rng = np.random.default_rng(size)
    for _ in range(5):
        selected = drawn(rng, 10, 6, 2)
        assert optimal(selected, np.arange(10) == 0, size, 6).sum() == most_hits(selected, size)


def test_experts_of_a_token_are_used_at_once():
    selected = np.array([[1, 0], [2, 1], [3, 0], [1, 2]])
    # Used last, in this order: 0 1; 1 2 0; 0 3 1 2.
    assert depths(selected, np.arange(4) == 0, 4).tolist() == [[4, 4], [4, 1], [4, 2], [2, 3]]
    again = selected[:, ::-1]
    assert depths(again, np.arange(4) == 0, 4).tolist() == [[4, 4], [1, 4], [2, 4], [3, 2]]


def test_a_cache_of_as_many_as_a_token_has_holds_those_of_the_last_one():
    selected = drawn(np.random.default_rng(0), 60, 9, 3)
    shared = [len({*one} & {*other}) for one, other in zip(selected[:-1].tolist(), selected[1:].tolist(), strict=True)]
    hits = (depths(selected, np.arange(60) == 0, 9) < 3).sum(axis=1)
    assert hits.tolist() == [0, *shared]


def test_caches_begin_empty_where_they_should():
    selected, new = np.array([[0], [0], [0], [1], [0]]), np.array([True, False, True, False, False])
    assert (depths(selected, new, 2) < 2).ravel().tolist() == [False, True, False, False, True]
    assert optimal(selected, new, 1, 2).tolist() == [0, 1, 0, 0, 1]  # 0 is kept although 1 was used last


def test_what_is_told_by_hand():
    votes = np.array([[0.0, 0.5, 0.5, 0.0], [0.6, 0.0, 0.4, 0.0], [0.0, 0.0, 0.0, 0.0]])
    given = np.array([[0, 1], [1, 0], [2, 2]])  # sums 0.6 0.5 0.9 0.0, twice; none, so that 0 and 1 are told
    assert told(given, np.array([[0, 2], [1, 3], [1, 2]]), votes).tolist() == [2, 0, 1]


# ---------------------------------------------------------------- measures


def made(selected: list[np.ndarray], experts: int, documents: int, **options) -> Case:
    """Layers from their selections, in documents of equal length, each a cluster."""
    layers = {index: records(logits_for(each, experts), each.shape[1]) for index, each in enumerate(selected)}
    return case(layers, [len(selected[0]) // documents] * documents, **options)


def measured(study: dict[str, Case], folder, sizes=(1, 2)):
    paths = written(study, folder)
    tokens = routed.read(**paths)
    options = {"tokens": 100_000, "sizes": list(sizes), "seed": 1, "confidence": 0.95}
    return measure(tokens, routed.read_layers(tokens, paths["records"]), **options).metrics


def mean(metrics, name: str, **where) -> np.ndarray:
    """Estimate, low and high of a pooled mean over layers."""
    return metrics[f"mean_over_layers_{name}"].sel(dataset=POOLED, **where).values


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    rng = np.random.default_rng(4)
    selected = [drawn(rng, 4000, 8, 2) for _ in range(2)]
    return measured({"a": made(selected, 8, 40)}, tmp_path_factory.mktemp("uniform"))


def test_under_uniform_routing_all_hit_what_is_known(uniform):
    expected = uniform["uniform_hits"].values
    assert expected.tolist() == [0.25, 0.5] and uniform["cache_experts"].values.tolist() == [2, 4]
    for cache, known in zip((1, 2), expected, strict=True):
        for name in ("frequent_hits", "general_hits"):
            assert mean(uniform, name, cache=cache)[0] == pytest.approx(known, abs=0.02)
        for order in (TEXT, WITHIN, ACROSS):
            recent = mean(uniform, "recent_hits", cache=cache, token_order=order)[0]
            assert recent == pytest.approx(known, abs=0.02)
            assert mean(uniform, "optimal_hits", cache=cache, token_order=order)[0] > recent + 0.1
    for name in ("order_gain", "document_gain", "recent_gain"):
        _, low, high = mean(uniform, name, cache=1)
        assert low < 0 < high
    for name in ("next_layer", "next_token"):
        _, low, high = mean(uniform, f"{name}_gained")
        assert low < 0 < high < 0.05


def test_planted_order_is_told_and_shuffling_takes_it_away(tmp_path):
    """Experts in turn within a document, and those of the next layer three farther: no cache of few hits anything."""
    turn = (np.tile(np.arange(50), 40) + np.repeat(np.arange(40), 50)) % 8
    found = measured({"a": made([turn[:, None], (turn[:, None] + 3) % 8], 8, 40)}, tmp_path)
    assert (mean(found, "next_token_hits", token_order=TEXT) == 1).all()
    assert np.isnan(found["next_layer_hits"].sel(layer=0)).all()
    assert (mean(found, "next_layer_hits", token_order=TEXT) == 1).all()
    assert mean(found, "recent_hits", token_order=TEXT, cache=2)[0] < 0.01  # at the ends of documents
    assert mean(found, "order_gain", cache=2)[2] < -0.1
    for name in ("next_token_hits", "next_layer_hits"):
        for order in (WITHIN, ACROSS):
            assert mean(found, name, token_order=order)[0] < 0.25
        assert mean(found, name.replace("hits", "frequent"))[0] == pytest.approx(1 / 8, abs=0.02)


def test_hot_sets_of_datasets_are_found_on_the_other_half(tmp_path):
    rng = np.random.default_rng(5)
    study = {
        name: made([first + drawn(rng, 50 * documents, 3, 2)], 8, documents)
        for name, first, documents in (("a", 0, 40), ("b", 4, 30))
    }
    found = measured(study, tmp_path)
    assert mean(found, "frequent_hits", cache=2).tolist() == [1, 1, 1]
    assert mean(found, "frequent_hits", cache=1)[0] == pytest.approx(2 / 3, abs=0.02)
    general = found["general_hits"].sel(cache=1, layer=0, interval="estimate")
    assert general.sel(dataset="b") == 0 and general.sel(dataset="a") == pytest.approx(2 / 3, abs=0.02)
    assert found["general_hits"].sel(cache=1, layer=0, interval="estimate", dataset=POOLED) == general[1:].mean()
    assert set(found["hot_expert"].sel(dataset="b", layer=0).values) < {4, 5, 6}
    assert mean(found, "own_gain", cache=1)[1] > 0.2
    brief = page.brief(seen(found))
    assert brief.layer == 0 and len(brief.experts) == 2
    assert brief.example.startswith("In layer 0 experts ") and brief.text.startswith("2 experts of each layer get ")
    verdicts = [each.verdict for each in page.findings(seen(found))]
    assert verdicts[:2] == ["yes", "yes"] and len(verdicts) == 5  # nothing of a next layer


def test_only_the_sets_of_experts_count(tmp_path):
    rng = np.random.default_rng(6)
    selected = [drawn(rng, 600, 8, 3) for _ in range(2)]
    turned = [each[:, ::-1] for each in selected]
    one, other = (
        measured({"a": made(each, 8, 30)}, tmp_path / name) for name, each in (("one", selected), ("other", turned))
    )
    assert one.drop_attrs().equals(other.drop_attrs())


def test_what_no_cluster_is_left_for_is_not_known(tmp_path):
    selected = [drawn(np.random.default_rng(7), 100, 8, 2)]
    study = {"a": made(selected, 8, 4, cluster=["one"] * 4)}
    found = measured(study, tmp_path)
    assert all(np.isnan(found[name]).all() for name in ("recent_hits", "frequent_hits", "next_token_hits"))
    assert page.findings(seen(found)) == [] and page.brief(seen(found)) is None


# ---------------------------------------------------------------- the page


def test_what_is_not_there_is_said(uniform):
    assert page.brief(seen(uniform)).text == "Nothing shows that datasets have hot sets of experts."
    verdicts = {each.question: each.verdict for each in page.findings(seen(uniform))}
    assert set(verdicts.values()) <= {"no", "unclear"} and len(verdicts) == 6
