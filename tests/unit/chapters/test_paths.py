"""Paths: their numbers, the nulls, planted routing through three layers, paths of datasets, the page."""

from functools import partial

import numpy as np
import page_cases
import pytest
import xarray as xr
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.paths import HALF, IDS, INDEPENDENT, OBSERVED, measure, page
from gatebook.chapters.paths.null import ATTEMPTS, replaced
from gatebook.figures.blocks import tree_order
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.uncertainty import jackknife
from gatebook.study import routed

seen = partial(page_cases.seen, "paths")

pytestmark = pytest.mark.filterwarnings("error")

EXPERTS, TYPES, LAYERS = 5, 6, 3
SETTINGS = {"layers": 4, "rarefied_tokens": 1000, "minimum_occurrences": 20, "false_discovery_rate": 0.05}


def in_layers(choices: list[np.ndarray], lengths: list[int], token_id: np.ndarray) -> Case:
    """A dataset whose tokens choose one expert in each layer."""
    made = {number: records(logits_for(choice[:, None], EXPERTS), 1) for number, choice in enumerate(choices)}
    return case(made, lengths, token_id)


def planted(kind: str, rng: np.random.Generator, documents: int = 44, length: int = 30, offset: int = 0) -> Case:
    """Three layers that follow the id, the text, each the one before, or nothing; or the last one the first."""
    tokens = documents * length
    token_id, noise = rng.integers(0, TYPES, tokens), rng.integers(0, EXPERTS, (3, tokens))
    text = np.repeat(rng.integers(0, EXPERTS, documents), length)
    stays = rng.random((2, tokens)) < 0.7
    second = np.where(stays[0], (noise[0] + 1) % EXPERTS, noise[1])
    choices = {
        "ids": [(token_id + layer * (token_id // 2) + offset) % EXPERTS for layer in range(3)],
        "text": [(text + layer) % EXPERTS for layer in range(3)],
        "chain": [noise[0], second, np.where(stays[1], second, noise[2])],
        "back": [noise[0], noise[1], (noise[0] + noise[1]) % EXPERTS],
        "nothing": list(noise),
    }[kind]
    return in_layers(choices, [length] * documents, token_id)


def measured(study: dict[str, Case], folder, **options):
    paths = written(study, folder)
    read = routed.read(**paths)
    options = SETTINGS | {"tokens": 10**6, "seed": 1, "confidence": 0.95} | options
    return measure.measure(read, routed.read_layers(read, paths["records"]), **options)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The metrics of every planted study."""
    kinds = ("ids", "text", "chain", "back", "nothing")
    rng = np.random.default_rng(5)
    return {kind: measured({"poems": planted(kind, rng)}, tmp_path_factory.mktemp(kind)).metrics for kind in kinds}


def value(metrics: xr.Dataset, name: str, **where) -> float:
    return float(metrics[name].sel(layer=2, interval="estimate", **where))


# ---------------------------------------------------------------- numbers of paths


def test_numbers_by_hand():
    # 10 tokens: five on one path, two on each of two, one on another.
    distinct, needed, mass, entropy = measure._numbers(np.array([5, 2, 2, 1]))
    assert (distinct, needed) == (4, [1, 3, 4])
    assert mass == pytest.approx(0.9)
    assert entropy == pytest.approx(0.5 + 2 * 0.2 * np.log2(5) + 0.1 * np.log2(10))
    assert measure._coverage(np.array([5, 2, 2, 1])).tolist() == pytest.approx([0.5, 0.7, 0.9, *[1] * 7])
    distinct, needed, mass, entropy = measure._numbers(np.ones(8, int))  # a path for every token
    assert (distinct, needed, mass, entropy) == (8, [4, 7, 8], 0, 3)
    assert np.isnan(measure._numbers(np.zeros(0, int))[0])


def test_paths_are_numbers_and_back():
    choices = np.random.default_rng(0).integers(0, 7, (4, 50))
    assert (measure._written(measure._keys(list(choices), 7), 4, 7) == choices.T).all()
    known, count = np.unique(choices.T, axis=0, return_counts=True)
    assert measure._counts(list(choices), 7).tolist() == sorted(count.tolist(), reverse=True)
    top, carried = measure._top(measure._keys(list(choices), 7), 4, 7)
    assert (top[: len(known)] >= 0).all() and (top[len(known) :] == -1).all()
    assert carried.sum() == 50 and (np.diff(carried) <= 0).all()


# ---------------------------------------------------------------- the null of token ids


def alike(token, group):
    """What `replaced` reads of the tokens of each id."""
    place = np.lexsort((group, token))
    starts = np.searchsorted(token[place], np.arange(token.max() + 1))
    return starts[token], np.bincount(token)[token], place, group


@pytest.mark.parametrize("left_out", [-1, 2])
def test_replacements_are_of_the_id_and_of_different_groups(left_out):
    rng = np.random.default_rng(0)
    token, group = rng.integers(0, 5, 800), rng.choice(7, 800, p=[0.01, 0.01, 0.08, 0.3, 0.3, 0.2, 0.1])
    chosen = np.flatnonzero(group != left_out)
    found = replaced(chosen, *alike(token, group), 4, left_out, 3)
    assert (token[found] == token[chosen][:, None]).all()
    groups = np.column_stack([group[chosen], group[found]])
    assert (np.diff(np.sort(groups, axis=1), axis=1) > 0).all() and (groups != left_out).all()


def test_without_a_group_only_its_replacements_are_others():
    rng = np.random.default_rng(1)
    token, group = rng.integers(0, 3, 900), rng.integers(0, 8, 900)
    chosen = np.flatnonzero(group != 5)
    whole, without = (replaced(chosen, *alike(token, group), 2, left_out, 3) for left_out in (-1, 5))
    of_group = group[whole] == 5
    assert of_group.any() and (whole == without)[~of_group].all() and (whole != without)[of_group].all()
    assert (replaced(chosen, *alike(token, group), 2, -1, 4) != whole).any()


def test_a_group_that_has_nearly_all_tokens_of_an_id_leaves_the_others():
    token, group = np.zeros(5003, int), np.append(np.zeros(5000, int), [1, 2, 3])
    found = replaced(np.arange(50), *alike(token, group), 4, -1, 9)
    assert ATTEMPTS < 500 and (np.sort(group[found], axis=1) == [1, 2, 3]).all()


def test_replacements_are_drawn_evenly():
    token, group = np.zeros(4000, int), np.repeat(np.arange(8), 500)
    found = replaced(np.arange(500), *alike(token, group), 2, -1, 7)[:, 0]
    counts = np.bincount(group[found], minlength=8)
    assert counts[0] == 0 and np.abs(counts[1:] - 500 / 7).max() < 4 * np.sqrt(500 / 7)
    assert len(np.unique(found)) > 400


# ---------------------------------------------------------------- planted routing


def test_ids_alone_explain_the_paths_of_ids(found):
    metrics = found["ids"]
    for name in ("distinct_paths", "path_entropy", "seen_mass"):
        assert value(metrics, name, routing=OBSERVED) == value(metrics, name, routing=IDS), name
    assert value(metrics, "relative_paths") == 1
    assert value(metrics, "distinct_paths", routing=OBSERVED) == TYPES
    assert value(metrics, "distinct_paths", routing=INDEPENDENT) > 50


def test_texts_that_decide_have_fewer_paths_than_ids_give(found):
    metrics = found["text"]
    assert value(metrics, "distinct_paths", routing=OBSERVED) == EXPERTS
    assert value(metrics, "relative_paths") < 0.1
    assert 20 < value(metrics, "paths_needed", share=HALF, routing=INDEPENDENT) <= EXPERTS**LAYERS / 2


def test_nothing_leaves_all_alike(found):
    metrics = found["nothing"]
    entropies = [value(metrics, "path_entropy", routing=routing) for routing in (OBSERVED, IDS, INDEPENDENT)]
    assert max(entropies) - min(entropies) < 0.05
    low, high = (float(metrics["relative_paths"].sel(layer=2, interval=end)) for end in ("low", "high"))
    assert low <= 1 <= high


def test_what_two_layers_back_adds_is_0_of_a_chain(found):
    low, high = (float(found["chain"]["two_back_added"].sel(layer=2, interval=end)) for end in ("low", "high"))
    assert low <= 0 <= high and abs(value(found["chain"], "two_back_added")) < 0.02
    assert value(found["back"], "two_back_added") == pytest.approx(1, abs=0.03)


def test_all_draws_are_of_as_many_tokens(tmp_path):
    draws = measured({"x": planted("nothing", np.random.default_rng(0))}, tmp_path, rarefied_tokens=10**6)
    tokens = draws.metrics.attrs["rarefied_tokens"]
    held = planted("nothing", np.random.default_rng(0))
    assert tokens == min(len(held.group) - np.bincount(held.group, minlength=GROUPS).max(), len(held.group))
    assert np.isfinite(draws.draws["distinct_paths"]).all()


def test_ids_in_too_few_groups_do_not_count(tmp_path):
    rng = np.random.default_rng(0)
    alone = in_layers(list(rng.integers(0, EXPERTS, (3, 80))), [20] * 4, np.arange(80))
    metrics = measured({"x": alone}, tmp_path).metrics
    assert metrics.attrs["rarefied_tokens"] == 0 and np.isnan(metrics["relative_paths"]).all()
    shown = seen(metrics)
    assert page.brief(shown) is None and len(page.figures(shown)) == 5
    assert [each.measure for each in page.findings(shown)] == ["two_back_added"]


def test_windows_end_in_every_layer_from_the_first_that_has_enough_before(tmp_path):
    metrics = measured({"x": planted("chain", np.random.default_rng(0))}, tmp_path, layers=2).metrics
    assert metrics["layer"].values.tolist() == [1, 2]
    assert metrics["window"].values.tolist() == [[0, 1], [1, 2]]
    assert np.isnan(metrics["two_back_added"]).all()


def ratio(rng: np.random.Generator) -> np.ndarray:
    """Draws of the entropy of paths less that of ids, of routing by ids alone in texts that differ in their ids."""
    lengths = np.ceil(rng.lognormal(4.3, 0.5, 60)).astype(int)
    owner = np.repeat(np.arange(60), lengths)
    mixture = rng.dirichlet(np.full(TYPES, 2), 60)[owner].cumsum(axis=1)
    token = (rng.random(len(owner))[:, None] > mixture).sum(axis=1).clip(max=TYPES - 1)
    of_id = np.random.default_rng(0).dirichlet(np.ones(4), (3, TYPES)).cumsum(axis=-1)
    choices = [(rng.random(len(owner))[:, None] > table[token]).sum(axis=1).clip(max=3) for table in of_id]
    group = owner % GROUPS
    held = np.zeros((TYPES, GROUPS), bool)
    held[token, group] = True
    text = measure._Text(token, group, np.zeros(len(owner), np.int64), rng.permutation(len(owner)), 1, held)
    rarefied = measure._rarefied(text, 3, 2000, int(rng.integers(10**6)))
    found = measure._window(text, choices, choices[-1][:, None].astype(np.uint8), rarefied, 4)
    return found["path_entropy"].values[:, 0] - found["path_entropy"].values[:, 1]


@pytest.mark.slow
def test_the_interval_holds_0_where_ids_alone_decide():
    rng, inside = np.random.default_rng(7), []
    for _ in range(100):
        low, high = jackknife(xr.DataArray(ratio(rng), dims="draw")).values[1:]
        inside.append(low <= 0 <= high)
    assert np.mean(inside) >= 0.88


# ---------------------------------------------------------------- paths of datasets, and the page


def test_paths_that_one_dataset_has_belong_to_it(tmp_path):
    rng = np.random.default_rng(3)
    study = {"poems": planted("text", rng), "code": planted("ids", rng, offset=1)}
    metrics = measured(study, tmp_path).metrics
    assert value(metrics, "specific_share") > 0.7
    best = metrics["best_path"].isel(best=0)
    poems = {" ".join(str((first + layer) % EXPERTS) for layer in range(3)) for first in range(EXPERTS)}
    assert best.values[0] == "" and best.sel(dataset="poems").item() in poems
    score = metrics["best_score"].sel(dataset="poems", best=0)
    assert score[1] <= score[0] <= score[2] and score[0] > 0.5
    said = page.brief(seen(metrics))
    assert " → " in said.example and said.layer == 2 and len(said.experts) == 1


def test_paths_of_alike_datasets_belong_to_none(tmp_path):
    rng, shares = np.random.default_rng(4), []
    for number in range(3):
        study = {name: planted("nothing", rng) for name in ("poems", "code")}
        shares.append(value(measured(study, tmp_path / f"{number}", minimum_occurrences=5).metrics, "specific_share"))
    assert np.mean(shares) <= 0.05


def test_the_answers_to_planted_routing(found):
    answers = {kind: [each.verdict for each in page.findings(seen(metrics))] for kind, metrics in found.items()}
    assert answers["text"][0] == "yes" and answers["ids"][0] != "yes" and answers["nothing"][0] == "unclear"
    assert answers["back"][1] == "yes" and answers["chain"][1] == "unclear"
    said = page.findings(seen(found["text"], found["nothing"]))[0]
    assert "less than in the untrained model" in said.answer


def test_a_tree_keeps_prefixes_together_and_begins_with_the_largest():
    paths = np.array([[1, 2], [0, 5], [1, 3], [0, 1], [1, 2]])
    order = tree_order(paths, np.array([1, 4, 9, 3, 1]))
    assert paths[order].tolist() == [[1, 3], [1, 2], [1, 2], [0, 5], [0, 1]]


def test_readers_explore_all_paths(found):
    shown = page.explored(seen(found["nothing"]))
    assert shown.windows == [[0, 1, 2]] and shown.total == 44 * 30 == shown.tokens[0].sum()
    assert len(shown.paths[0]) == len(np.unique(shown.paths[0], axis=0)) == EXPERTS**LAYERS
