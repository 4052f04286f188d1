"""Determinants: classes of tokens, what classes explain of planted routing, persistence, the page."""

from functools import partial

import numpy as np
import page_cases
import pytest
import xarray as xr
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.base.page import Seen
from gatebook.chapters.determinants import CLASSES, CONTROL, PAIR, TOKEN, TOKEN_DATASET, TRIPLE, page
from gatebook.chapters.determinants import measure as determinants
from gatebook.chapters.determinants.persistence import persistence
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty
from gatebook.measures.explained import partners
from gatebook.study import routed

seen = partial(page_cases.seen, "determinants")

pytestmark = pytest.mark.filterwarnings("error")

EXPERTS, K, TYPES = 12, 2, 6


def sets_of(code: np.ndarray, seed: int = 0) -> np.ndarray:
    """A set of experts for every value of a code: (token, rank)."""
    return np.argsort(np.random.default_rng(seed).random((code.max() + 1, EXPERTS)), axis=1)[code, :K]


def planted(rng: np.random.Generator, lengths: list[int], kind: str) -> Case:
    """A dataset whose routing follows the token id, the one before, both, the document, or nothing."""
    token_id = rng.integers(0, TYPES, sum(lengths))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    first = np.append(True, owner[1:] != owner[:-1])
    previous = np.where(first, TYPES, np.append(0, token_id[:-1]))
    code = {
        "token": token_id,
        "previous": previous,
        "pair": token_id * (TYPES + 1) + previous,
        "document": owner + 100 * rng.integers(1000),
        "nothing": np.arange(len(token_id)),
    }[kind]
    selected = sets_of(code, 0 if kind != "nothing" else rng.integers(1000))
    return case({1: records(logits_for(selected, EXPERTS), K)}, lengths, token_id)


def measured(study: dict[str, Case], folder, **options):
    paths = written(study, folder)
    read = routed.read(**paths)
    options = {"tokens": 10**6, "distances": [1, 4], "seed": 1, "confidence": 0.95} | options
    return determinants.measure(read, routed.read_layers(read, paths["records"]), **options)


def study_of(kind: str) -> dict[str, Case]:
    rng = np.random.default_rng(5)
    return {"poems": planted(rng, [60] * 24, kind), "code": planted(rng, [40] * 22, kind)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The metrics of every planted study."""
    kinds = ("token", "previous", "pair", "document", "nothing")
    return {kind: measured(study_of(kind), tmp_path_factory.mktemp(kind)).metrics for kind in kinds}


def pooled(metrics: xr.Dataset, name: str, **where) -> xr.DataArray:
    return metrics[name].sel(dataset="pooled", layer=1, **where)


def value(metrics: xr.Dataset, name: str, **where) -> float:
    return float(pooled(metrics, name, interval="estimate", **where))


def clustered(lengths=(5, 7, 4, 6, 8), clusters=("a", "b", "a", "c", "b")) -> Case:
    token_id = np.arange(sum(lengths)) % 9
    return case({0: records(np.eye(4)[token_id % 4], 1)}, list(lengths), token_id, list(clusters))


# ---------------------------------------------------------------- classes


def text(token_id, position, next_id=None, dataset=None, group=None) -> xr.Dataset:
    token_id, position = np.array(token_id), np.array(position)
    none = np.zeros(len(token_id), int)
    following = np.append(np.where(position[1:] == 0, routed.NONE, token_id[1:]), routed.NONE)
    parts = {
        "token_id": token_id,
        "position": position,
        "next": following if next_id is None else np.array(next_id),
        "window": np.cumsum(position == 0) - 1,
        "dataset": none if dataset is None else np.array(dataset),
        "group": none if group is None else np.array(group),
    }
    return xr.Dataset({name: ("token", values) for name, values in parts.items()})


def test_classes_by_hand():
    made = determinants.classes(text([3, 5, 3, 5, 3, 3, 5], [0, 1, 2, 3, 4, 0, 1], dataset=[0, 0, 0, 0, 0, 1, 1]))
    same = {name: (code[:, None] == code).astype(int) for name, code in made.items()}
    # Which of the tokens 3 5 3 5 3 | 3 5 are alike, written as the numbers of their classes.
    wanted = {
        "position": [0, 1, 2, 3, 4, 0, 1],
        "dataset": [0, 0, 0, 0, 0, 1, 1],
        "token": [3, 5, 3, 5, 3, 3, 5],
        "previous token": [9, 3, 5, 3, 5, 9, 3],
        "token and dataset": [0, 1, 0, 1, 0, 2, 3],
        "token and previous": [0, 1, 2, 1, 2, 0, 1],
        "token and two previous": [0, 1, 2, 3, 2, 0, 1],
        "token, previous and next": [0, 1, 2, 1, 4, 0, 5],
    }
    assert list(made) == list(CLASSES) == list(wanted)
    for name, code in wanted.items():
        assert (same[name] == (np.array(code)[:, None] == code)).all(), name
        assert made[name].min() == 0 and len(np.unique(made[name])) == made[name].max() + 1


def test_a_study_is_read_as_windows(tmp_path):
    made = clustered()
    made = Case(made.layers, made.lengths, made.token_id, made.documents, window=4)
    read = routed.read(**written({"x": made}, tmp_path))
    place = np.array([0, 1, 2, 3, 4, 12, 13, 14, 15, 16])
    found = determinants.text_of(read, place)
    assert found["position"].values.tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 0]
    assert found["document"].values.tolist() == [0, 0, 0, 0, 0, 2, 2, 2, 2, 3]
    assert (found["next"].values == routed.NONE).tolist() == [False] * 3 + [True, True] + [False] * 3 + [True, False]
    assert found["token_id"].values.tolist() == made.token_id[place].tolist()
    assert np.diff(found["window"].values).tolist()[:4] == [0, 0, 0, 1]


def test_repeated_contexts_by_hand():
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    position = [*range(9)] * 3
    # The last eight tokens of two tokens of the first document are those of the second, and of one those of the third.
    other = [0, *ids[1:]]
    found = determinants.repeated(text(ids + ids + other, position, group=[0] * 9 + [1] * 9 + [2] * 9), 1)
    assert found.tolist() == pytest.approx([5 / 6])
    short = determinants.repeated(text(ids[:5], range(5)), 1)
    assert np.isnan(short).all()


def test_common_tokens_have_a_partner_in_every_class_and_are_the_most_that_have():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(6), 30)
    made = text(rng.integers(0, 4, 180), np.tile(np.arange(30), 6), group=group)
    codes = determinants.classes(made)
    common = determinants.common_tokens(codes, made, 1)
    assert 0 < common.sum() < 180
    for code in codes.values():
        for one in np.flatnonzero(common):
            assert (common & (code == code[one]) & (group != group[one])).any()
    # Of those left out none could be kept: take them away one after another.
    kept = np.ones(180, bool)
    while True:
        lonely = [
            one
            for one in np.flatnonzero(kept)
            if not all((kept & (code == code[one]) & (group != group[one])).any() for code in codes.values())
        ]
        if not lonely:
            break
        kept[lonely[0]] = False
    assert (kept == common).all()


# ---------------------------------------------------------------- planted routing


def test_what_is_planted_is_found_and_nothing_else(found):
    # Token ids are drawn at random, so nothing else goes with what decides.
    one = {
        "token": [TOKEN, TOKEN_DATASET, PAIR, TRIPLE, CONTROL],
        "previous": ["previous token", PAIR, TRIPLE, CONTROL],
    }
    one |= {"pair": [PAIR, TRIPLE, CONTROL], "nothing": [], "document": []}
    for kind, names in one.items():
        for name in ("share_explained", "common_share"):
            shares = {each: value(found[kind], name, **{"class": each}) for each in CLASSES}
            for each in CLASSES:
                if each in names:
                    assert shares[each] == pytest.approx(1), (kind, each)
                elif kind != "pair" and (kind != "document" or each != "dataset"):
                    assert abs(shares[each]) < 0.06, (kind, each, shares)


def test_a_pair_that_decides_leaves_a_part_to_each_token(found):
    # The sets of pairs are independent, and so means of a token's are nearly, but not quite, those of all.
    parts = [value(found["pair"], "share_explained", **{"class": each}) for each in (TOKEN, "previous token")]
    assert all(0 < part < 0.4 for part in parts)
    added = value(found["pair"], "context_added")
    assert added == pytest.approx(1 - value(found["pair"], "common_share", **{"class": TOKEN}))
    assert pooled(found["pair"], "context_added", interval="low") > 0.5


def test_differences_are_those_of_the_common_shares(found):
    for metrics in found.values():
        share = metrics["common_share"].sel(interval="estimate")
        for name, (finer, coarser) in determinants.DIFFERENCES.items():
            apart = share.sel({"class": finer}, drop=True) - share.sel({"class": coarser}, drop=True)
            xr.testing.assert_allclose(metrics[name].sel(interval="estimate").transpose(*apart.dims), apart)
        both = metrics["persistence"] - metrics["persistence_of_ids"]
        wanted = metrics["persistence_beyond_ids"].sel(interval="estimate")
        xr.testing.assert_allclose(both.sel(interval="estimate").transpose(*wanted.dims), wanted)


def test_an_expert_has_the_share_of_what_decides_its_selection(tmp_path):
    """Expert 0 is chosen by the token id, 1 by the one before, and others fill up at random."""
    rng = np.random.default_rng(2)
    lengths = [50] * 30
    token_id = rng.integers(0, TYPES, 1500)
    first = np.arange(1500) % 50 == 0
    previous = np.where(first, 0, np.append(0, token_id[:-1]))
    logits = rng.random((1500, EXPERTS)) * (np.arange(EXPERTS) > 1)
    logits[:, 0], logits[:, 1] = 9.0 * (token_id < 3), 8.0 * (previous < 3)
    metrics = measured({"x": case({1: records(logits, K)}, lengths, token_id)}, tmp_path).metrics
    share = metrics["expert_share"].sel(layer=1, interval="estimate")
    assert share.sel(expert=0, **{"class": TOKEN}) == pytest.approx(1)
    assert abs(share.sel(expert=1, **{"class": TOKEN})) < 0.05
    assert share.sel(expert=1, **{"class": PAIR}) == pytest.approx(1, abs=0.05)
    assert (abs(share.sel({"class": "position"})) < 0.1).all()
    roles = page._roles(metrics)
    assert [int(values.sel(layer=1).argmax("expert")) for values in (roles[0], roles[2])] == [0, 1]
    by_expert = [[float(values.sel(layer=1, expert=one)) for values in roles] for one in range(EXPERTS)]
    largest = [shares.index(max(shares)) for shares in by_expert]
    assert largest[:2] == [0, 2]
    said = ", ".join(f"{name} {largest.count(index)}" for index, name in enumerate(page.ROLES))
    assert f"Experts by what explains most: {said}. " in page._roles_by_expert(metrics).caption


def test_sizes_are_of_the_tokens_that_count_and_a_seed_gives_the_same(tmp_path):
    study = study_of("token")
    one, other, third = (
        measured(study, tmp_path / f"{i}", tokens=500, seed=seed).metrics for i, seed in enumerate((1, 1, 2))
    )
    assert one["tokens"].values.tolist() == [1000, 500, 500]
    assert one["documents"].values.tolist() == [22, 9, 13] == one["clusters"].values.tolist()
    xr.testing.assert_identical(one, other)
    assert not one["persistence_of_ids"].equals(third["persistence_of_ids"])
    assert one["coverage"].sel({"class": TOKEN}).values.tolist() == [1, 1, 1]
    np.testing.assert_allclose(one["coverage"][:, 0], one["coverage"][:, 1:].mean("dataset"))


# ---------------------------------------------------------------- persistence


def overlaps(selected, made: xr.Dataset, distances, seed=0):
    ids = partners(made["token_id"].values, made["group"].values, made["dataset"].values, 1)
    return persistence(ids, made, np.asarray(selected, np.uint8), distances, np.random.default_rng(seed))


def test_persistence_by_hand():
    # Two documents of other groups and the same ids: 1 2 1 2, so all tokens have a partner.
    made = text([1, 2, 1, 2] * 3, [0, 1, 2, 3] * 3, group=[0] * 4 + [1] * 4 + [2] * 4)
    selected = [[0, 1], [1, 2], [2, 3], [0, 3]] * 3
    found = overlaps(selected, made, [1, 2, 3, 4])[0, :, 0]
    # One apart they share 1, 1, 1 of 2; two apart 0 and 0; three apart 1; none are four apart.
    np.testing.assert_allclose(found, [[0.5, 0.5], [0, 0], [0.5, 0.5], [np.nan, np.nan]])


def test_ids_that_decide_leave_nothing_beyond_themselves(found):
    values = found["token"]["persistence_beyond_ids"]
    assert (values.sel(interval="estimate") == 0).all()


def test_documents_that_decide_persist_at_any_distance_and_ids_say_nothing_of_it(found):
    metrics = found["document"]
    for distance in (1, 4):
        assert value(metrics, "persistence", distance=distance) == 1
        # Sets of different documents: K of EXPERTS at random, of few documents.
        assert value(metrics, "persistence_of_ids", distance=distance) == pytest.approx(K / EXPERTS, abs=0.08)


def test_what_ids_alone_give_is_the_mean_over_pairs_of_others_of_their_ids():
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(5), 12)
    made = text(rng.integers(0, 3, 60), np.tile(np.arange(12), 5), group=group)
    selected = np.argsort(rng.random((60, 5)), axis=1)[:, :2]
    token_id, window = made["token_id"].values, made["window"].values
    common = np.array([[len({*one} & {*other}) for other in selected] for one in selected]) / 2
    values, weights = [], []
    for one in range(58):
        other = one + 2
        if window[one] != window[other]:
            continue
        first, second = (np.flatnonzero((token_id == token_id[t]) & (group != group[t])) for t in (one, other))
        apart = group[first][:, None] != group[second]
        values.append(common[np.ix_(first, second)][apart].mean())
        weights.append(apart.mean())
    found = np.mean([overlaps(selected, made, [2], seed)[1, 0, 0, 0] for seed in range(400)])
    assert found == pytest.approx(np.average(values, weights=weights), abs=0.004)


def test_draws_leave_out_all_that_rests_on_a_group():
    """A group whose tokens alone have other sets: without it all replacements, and all pairs, have the same."""
    group = np.repeat(np.arange(4), 10)
    made = text(np.tile([0, 1], 20), np.tile(np.arange(10), 4), group=group)
    selected = np.where((group == 2)[:, None], [2, 3], [0, 1])
    found = overlaps(selected, made, [1])
    assert (found[:, 0, 1 + 2] == 1).all() and (found[1, 0, [0, 1, 2, 4]] < 1).all()
    assert found.shape == (2, 1, 1 + GROUPS, 2)


def test_the_interval_of_persistence_beyond_ids_holds_0_where_ids_alone_decide_at_random():
    """Every token follows its id or not, by itself: sources differ in their ids only, and 0 is the truth."""
    rng, inside = np.random.default_rng(11), []
    for _ in range(60):
        lengths = np.ceil(rng.lognormal(4, 0.6, 40)).astype(int)
        owner = np.repeat(np.arange(40), lengths)
        ids = (rng.random(len(owner))[:, None] > rng.dirichlet(np.full(5, 3), 40)[owner].cumsum(axis=1)).sum(axis=1)
        position = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        free = np.argsort(rng.random((len(owner), 6)), axis=1)[:, :2]
        selected = np.where(
            rng.random((len(owner), 1)) < 0.6, np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])[ids.clip(max=4)], free
        )
        made = text(ids.clip(max=4), position, group=owner % GROUPS)
        one, other = overlaps(selected, made, [1], rng.integers(10**6))[:, 0, :, 0]
        low, high = uncertainty.jackknife(xr.DataArray(one - other, dims="draw")).values[1:]
        inside.append(low <= 0 <= high)
    assert np.mean(inside) >= 0.88


# ---------------------------------------------------------------- the page


def findings(metrics: xr.Dataset, untrained: xr.Dataset | None = None) -> dict[str, object]:
    """The findings by the first words that tell them apart."""
    names = ("token", "position", "context", "domain", "control", "persistence")
    return dict(zip(names, page.findings(seen(metrics, untrained)), strict=True))


def test_the_answers_to_planted_routing(found):
    of_token, of_pair, of_nothing = (findings(found[kind]) for kind in ("token", "pair", "nothing"))
    assert of_token["token"].verdict == "yes" and "explains 100" in of_token["token"].answer
    assert of_token["context"].verdict == "unclear"
    assert of_pair["token"].verdict == "no" and of_pair["context"].verdict == "yes"
    assert of_pair["context"].effect == "large"
    assert of_nothing["token"].verdict == "no" and of_nothing["context"].verdict == "unclear"
    assert findings(found["document"])["persistence"].verdict == "yes"
    assert of_nothing["persistence"].verdict == "unclear"


def test_the_brief_says_what_context_adds_or_that_nothing_shows_it(found):
    said = page.brief(seen(found["pair"]))
    assert "explains" in said.text and said.layer == 1 and len(said.experts) == 1
    unsure = found["pair"].copy()
    unsure["expert_share"] = unsure["expert_share"].copy()
    unsure["expert_share"].loc[{"interval": "low"}] = -1
    said = page.brief(seen(unsure))
    assert "explains" in said.text and (said.example, said.experts) == ("", ())
    none = page.brief(seen(found["nothing"]))
    assert none.text.startswith("Nothing shows that") and none.experts == ()


def test_answers_name_the_untrained_model(found):
    said = findings(found["pair"], found["nothing"])
    assert "more than in the untrained model" in said["context"].answer
    assert said["context"].reference_value == pytest.approx(value(found["nothing"], "context_added"))


@pytest.mark.slow
def test_bars_are_the_common_shares(found):
    figures = {figure.name: figure for figure in page.figures(seen(found["pair"], found["nothing"]))}
    data = figures["parts_by_layer"].data
    assert data["checkpoint"].tolist() == ["trained", "untrained"]
    for name in (TOKEN, PAIR, TRIPLE):
        assert data[name][0] == pytest.approx(value(found["pair"], "common_share", **{"class": name}))
    widths = [patch.get_width() for patch in figures["parts_by_layer"].drawing.axes[0].patches]
    assert widths[::2] == pytest.approx([*np.diff([0, data[TOKEN][0], data[PAIR][0], data[TRIPLE][0]])])


def test_a_page_without_a_single_partner_says_nothing(tmp_path):
    rng = np.random.default_rng(0)
    alone = case({0: records(rng.random((40, 6)), 2)}, [20, 20], np.arange(40))
    metrics = measured({"x": alone}, tmp_path).metrics
    shown = Seen(metrics, None, seen(metrics).thresholds)
    assert page.brief(shown) is None
    assert all(figure.drawing.axes for figure in page.figures(shown))
    assert [finding.figure for finding in page.findings(shown)] in ([], ["classes_by_layer"])
