"""Placement: places, loads and drops by hand and by brute force, planted routing, uniform routing, the page."""

import json
from functools import partial
from itertools import combinations

import numpy as np
import page_cases
import pytest
import xarray as xr
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.placement import (
    ALONG,
    BOTH,
    BY_LOAD,
    CONTIGUOUS,
    IN_ORDER,
    PIECES,
    PLACEMENTS,
    RANDOM,
    TOGETHER,
    Chosen,
    measure,
    page,
    places,
    served,
    textbook,
)
from gatebook.chapters.placement.loads import Batches, drops, rooms_of, straggler
from gatebook.files import netcdf
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.uncertainty import jackknife
from gatebook.study import routed

seen = partial(page_cases.seen, "placement")

pytestmark = pytest.mark.filterwarnings("error")

EXPERTS, TOP_K, DOCUMENTS, LENGTH = 12, 3, 40, 50
SETTINGS = Chosen(devices=[4], tokens_per_device=3, batch_tokens=100, piece_tokens=10, replicas=[4]).model_dump()
SIZES = [(12, 4), (13, 4), (7, 3), (3, 5), (64, 8), (9, 9)]
every_size = pytest.mark.parametrize(("experts", "devices"), SIZES)


def held(device: np.ndarray, devices: int) -> list[int]:
    """How many experts each device holds, in increasing order."""
    return sorted(np.bincount(device, minlength=devices).tolist())


def even(experts: int, devices: int) -> list[int]:
    return sorted([experts // devices + (index < experts % devices) for index in range(devices)])


def pairs_of(selected: np.ndarray, experts: int) -> np.ndarray:
    """Tokens that select both of two experts."""
    chosen = np.zeros((len(selected), experts))
    np.put_along_axis(chosen, selected, 1, axis=1)
    return chosen.T @ chosen


# ---------------------------------------------------------------- places


@every_size
def test_all_devices_hold_as_many_experts(experts, devices):
    rng = np.random.default_rng(experts)
    pairs = pairs_of(np.argsort(rng.random((200, experts)), axis=1)[:, :2], experts)
    contiguous = places.contiguous(experts, devices)
    assert held(contiguous, devices) == even(experts, devices) and (np.diff(contiguous) >= 0).all()
    found = [places.by_load(np.diagonal(pairs), devices), places.along_layers(pairs, contiguous, devices)]
    found.append(places.by_coactivation(pairs, devices, 0))
    found.append(places.balanced(pairs, found[-1], 30))
    assert [held(each, devices) for each in found] == [even(experts, devices)] * 4


def test_by_load_by_hand():
    # 9 and 1, 7 and 2, 6 and 5: the last one goes where there is room, although the first device has less load.
    assert places.by_load(np.array([1, 9, 5, 7, 2, 6]), 3).tolist() == [0, 0, 2, 1, 1, 2]
    assert places.by_load(np.array([4, 3, 3, 3, 1]), 2).tolist() == [0, 1, 1, 0, 1]  # three of the five on one


def test_experts_change_places_until_none_gains():
    rng = np.random.default_rng(1)
    gain = rng.normal(size=(9, 9))
    gain = np.triu(gain, 1) + np.triu(gain, 1).T

    def worth(device):
        return gain[device[:, None] == device].sum()

    start = places.contiguous(9, 3)
    found = places.exchanged(gain, start)
    assert held(found, 3) == [3, 3, 3] and worth(found) > worth(start)
    for one, other in combinations(range(9), 2):
        changed = found.copy()
        changed[[one, other]] = changed[[other, one]]
        assert worth(changed) <= worth(found) + 1e-9
    assert places.exchanged(np.zeros((4, 4)), places.contiguous(4, 2)).tolist() == [0, 0, 1, 1]


def test_planted_pairs_are_put_on_one_device():
    rng = np.random.default_rng(2)
    block = rng.permutation(np.repeat(np.arange(4), 3))
    tokens = rng.integers(0, 4, 2000)
    selected = np.array([np.flatnonzero(block == each) for each in tokens])
    pairs = pairs_of(selected, 12)
    for device in (places.by_coactivation(pairs, 4, 3), places.balanced(pairs, places.contiguous(12, 4), 1)):
        assert all(len(set(device[block == each])) == 1 for each in range(4))


def test_pairs_that_are_never_selected_together_give_no_placement_more_than_another():
    pairs = np.diag(np.arange(1.0, 9))
    assert held(places.by_coactivation(pairs, 4, 0), 4) == [2, 2, 2, 2]


def test_balance_gives_up_pairs_for_even_loads():
    # Busy experts go together, and so do the others; on one device they have 2 x 10 of 22 selections.
    pairs = np.array([[10.0, 6, 5, 0], [6, 10, 0, 0], [5, 0, 1, 1], [0, 0, 1, 1]])
    together = places.by_coactivation(pairs, 2, 0)
    assert together[0] == together[1] != together[2] == together[3]
    assert places.balanced(pairs, together, 0).tolist() == together.tolist()
    even_loads = places.balanced(pairs, together, 1)
    assert even_loads[0] != even_loads[1] and even_loads[0] == even_loads[2]


def test_along_layers_experts_go_where_their_tokens_come_from():
    before = np.array([2, 0, 1, 2, 0, 1])
    comes_from = np.random.default_rng(4).permutation(6)
    moves = np.zeros((6, 6))
    moves[comes_from, np.arange(6)] = 10
    assert places.along_layers(moves, before, 3).tolist() == before[comes_from].tolist()


def test_copies_go_to_the_busiest_and_share_its_tokens():
    shares = places.with_replicas(np.array([8.0, 3, 2, 1]), 2, 3)  # 8 becomes 4 and 4, then 8 / 3 three times
    assert shares.tolist() == [[0, pytest.approx(2 / 3), pytest.approx(1 / 3)], [1, 0, 0], [0, 0, 1], [1, 0, 0]]
    whole = places.with_replicas(np.array([8.0, 3, 2, 1]), 0, 2)
    assert whole.argmax(axis=1).tolist() == places.by_load(np.array([8, 3, 2, 1]), 2).tolist()


@pytest.mark.parametrize(("experts", "top_k", "devices"), [(6, 2, 3), (7, 3, 3), (5, 4, 2), (4, 1, 2), (3, 2, 5)])
def test_uniform_routing_by_counting_all_sets(experts, top_k, devices):
    device = places.contiguous(experts, devices)
    sets = np.array(list(combinations(range(experts), top_k)))
    expected = np.mean([len(set(device[chosen])) for chosen in sets])
    assert places.uniform_devices(experts, top_k, devices) == pytest.approx(expected)
    assert places.devices_of(device, sets).mean() == pytest.approx(expected)
    same = np.mean(device[:, None] == device)
    assert places.random_moves(experts, devices) == pytest.approx(1 - same)


def test_uniform_routing_of_the_embedded_model():
    assert places.uniform_devices(32, 4, 8) == pytest.approx(3.4449, abs=1e-4)
    assert places.uniform_devices(32, 4, 4) == pytest.approx(2.818, abs=1e-3)


# ---------------------------------------------------------------- loads and drops


def in_one_batch(tokens: int) -> Batches:
    nothing = np.zeros(tokens, np.int64)
    return Batches(np.arange(tokens), nothing, nothing, 1, 1)


@pytest.mark.parametrize(
    ("load", "dropped"),
    [((2, 2, 2), 0), ((3, 3, 2), 0), ((4, 1, 1), 1), ((4, 3, 1), 1), ((4, 4, 0), 2), ((6, 0, 0), 3)],
)
def test_the_examples_of_textbooks(load, dropped):
    row = textbook.worked().set_index("loads").loc[str(load)]
    assert row["dropped"] == dropped and row["kept"] == sum(load) - dropped
    assert row["unused room"] == 9 - row["kept"]
    device = np.repeat(np.arange(3), load)[:, None]
    room = np.array([[[3.0]], [[0.0]]])
    lost = measure.lost_of(device, in_one_batch(len(device)), room, 3)[0, 0]
    assert lost * sum(load) == pytest.approx(dropped)  # with one expert a token, it loses all if it loses one


def test_the_room_is_in_even_shares_rounded_up_or_in_selections():
    rooms = rooms_of(np.array([[6.0, 8.0, 0.0]]), 3, [1, 1.25, 2, -3])
    assert rooms.tolist() == [[[2, 3, 4, 3], [3, 4, 6, 3], [0, 0, 0, 0]]]


def test_a_token_keeps_what_comes_before_it_in_the_batch():
    # Room for two on each device: the third token finds device 0 full but not 1, and the last one loses both.
    device = np.array([[0, 1], [0, 2], [0, 1], [1, 0]])
    room = np.array([[[2.0, 1.0]], [[0.0, 0.0]]])
    lost = measure.lost_of(device, in_one_batch(4), room, 3)
    assert lost[0].tolist() == [0.25, 0.5] and np.isnan(lost[1]).all()


def test_loads_by_brute_force():
    rng = np.random.default_rng(5)
    tokens, groups, number = 240, 3, 4
    selected = np.argsort(rng.random((tokens, EXPERTS)) ** np.linspace(1, 2, EXPERTS), axis=1)[:, :TOP_K]
    device, group = places.contiguous(EXPERTS, 4), rng.integers(0, groups, tokens)
    batches = Batches(np.arange(tokens), group, np.arange(tokens) // (tokens // number), groups, number)
    count = batches.counts(selected, EXPERTS).astype(float)
    load = count @ np.eye(4)[device]
    found = drops(load, [1, 1.5, -40]) | {"straggler": straggler(load)}
    room = rooms_of(count.sum(axis=-1), 4, [1, 1.5, -40])
    lost = measure.lost_of(device[selected], batches, room, 4)
    for draw in range(1 + groups):
        most = average = 0
        dropped, unused, all_lost, rooms, kept_tokens = *np.zeros((4, 3)), 0
        for batch in range(number):
            mine = [token for token in np.flatnonzero(batches.batch == batch) if group[token] != draw - 1]
            loads = np.bincount(device[selected[mine]].ravel(), minlength=4)
            most, average, kept_tokens = most + loads.max(), average + loads.mean(), kept_tokens + len(mine)
            for index, capacity in enumerate((np.ceil(loads.sum() / 4), np.ceil(1.5 * loads.sum() / 4), 40)):
                used = np.zeros(4, int)
                for token in mine:
                    kept = False
                    for place in device[selected[token]]:
                        used[place] += 1
                        kept |= used[place] <= capacity
                        dropped[index] += used[place] > capacity
                    all_lost[index] += not kept
                unused[index] += np.maximum(capacity - used, 0).sum()
                rooms[index] += 4 * capacity
        assert found["straggler"][draw] == pytest.approx(most / average)
        assert found["dropped_share"][draw] == pytest.approx(dropped / (TOP_K * kept_tokens))
        assert found["unused_room"][draw] == pytest.approx(unused / rooms)
        assert lost[draw] == pytest.approx(all_lost / kept_tokens)


# ---------------------------------------------------------------- planted routing


def planted(kind: str, rng: np.random.Generator, documents: int = DOCUMENTS, length: int = LENGTH) -> Case:
    """Two layers, the first choices in the second following those in the first.

    Experts are drawn at random; or each token selects a block of experts, spread over the numbers; or one of each three
    neighbours; or those of its document more often.
    """
    tokens = documents * length
    if kind == "blocks":
        selected = rng.integers(0, EXPERTS // TOP_K, tokens)[:, None] + EXPERTS // TOP_K * np.arange(TOP_K)
    elif kind == "apart":
        # Of the three experts of a token no two are ever selected together by another: each set is a line of its own.
        selected = rng.permutation(EXPERTS)[:, None][rng.integers(0, EXPERTS, tokens)]
    else:
        liking = np.repeat(rng.normal(0, 1.5, (documents, EXPERTS)), length, axis=0) * (kind == "texts")
        selected = np.argsort(-liking - rng.gumbel(size=(tokens, EXPERTS)), axis=1)[:, :TOP_K]
    layers = {1: selected, 4: (selected + 5) % EXPERTS}
    made = {number: records(logits_for(each, EXPERTS), each.shape[1]) for number, each in layers.items()}
    return case(made, [length] * documents)


def measured(study: dict[str, Case], folder, **options):
    paths = written(study, folder)
    read = routed.read(**paths)
    pairs = sum(each.tally()["pair_count"] for each in study.values())
    options = SETTINGS | {"seed": 1, "confidence": 0.95, "state_bytes": 10.0} | options
    return measure.measure(read, routed.read_layers(read, paths["records"]), pairs, **options)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is measured of every planted study."""
    rng = np.random.default_rng(6)
    kinds = ("blocks", "apart", "uniform", "texts")
    devices = {"uniform": [5, 4]}  # of which one does not divide the number of experts
    return {
        kind: measured({"poems": planted(kind, rng)}, tmp_path_factory.mktemp(kind), devices=devices.get(kind, [4]))
        for kind in kinds
    }


def value(metrics: xr.Dataset, name: str, **where) -> list[float]:
    """Estimate, low and high of a mean over layers, on 4 devices."""
    return metrics[f"mean_over_layers_{name}"].sel(devices=4, **where).values.tolist()


def test_blocks_go_to_one_device_and_save_all_but_one_copy(found):
    metrics = found["blocks"].metrics
    assert value(metrics, "devices_per_token", placement=TOGETHER) == [1, 1, 1]
    assert value(metrics, "states_sent", placement=TOGETHER) == [0.75] * 3
    assert value(metrics, "bytes_sent", placement=TOGETHER) == [15] * 3  # there and back
    saved = value(metrics, "traffic_saved", placement=TOGETHER)[0]
    assert saved == pytest.approx(1 - 1 / places.uniform_devices(EXPERTS, TOP_K, 4))


def test_what_is_never_selected_together_saves_nothing(found):
    metrics = found["apart"].metrics
    for placement in PLACEMENTS:
        assert value(metrics, "devices_per_token", placement=placement) == [1, 1, 1]
        assert value(metrics, "traffic_saved", placement=placement) == [0, 0, 0]


def test_uniform_routing_has_the_expected_devices_with_all_placements(found):
    metrics = found["uniform"].metrics
    for placement in (CONTIGUOUS, BY_LOAD, ALONG):
        _, low, high = value(metrics, "devices_per_token", placement=placement)
        assert low - 0.02 <= places.uniform_devices(EXPERTS, TOP_K, 4) <= high + 0.02
    for placement in (TOGETHER, BOTH):
        assert abs(value(metrics, "traffic_saved", placement=placement)[0]) < 0.02
    uniform = float(metrics["uniform_straggler"].sel(devices=4))
    for composition in (RANDOM, PIECES, IN_ORDER):
        straggler = value(metrics, "straggler", placement=CONTIGUOUS, composition=composition)[0]
        assert straggler == pytest.approx(uniform, abs=0.03)
        assert abs(value(metrics, "composition_cost", placement=CONTIGUOUS, composition=composition)[0]) < 0.04


def test_texts_that_like_experts_make_stragglers_of_batches_in_order(found):
    metrics = found["texts"].metrics
    random, pieces, in_order = (
        value(metrics, "straggler", placement=BY_LOAD, composition=each)[0] for each in (RANDOM, PIECES, IN_ORDER)
    )
    assert random < pieces < in_order
    cost = value(metrics, "composition_cost", placement=BY_LOAD, composition=IN_ORDER)
    assert cost[1] > 0.05 and value(metrics, "composition_cost", placement=BY_LOAD, composition=RANDOM) == [0, 0, 0]


def test_first_choices_that_follow_each_other_stay_on_a_device_along_layers(found):
    for kind in ("blocks", "uniform", "texts"):
        metrics = found[kind].metrics
        assert value(metrics, "moved_share", placement=ALONG) == [0, 0, 0]
        assert np.isnan(metrics["moved_share"].sel(layer=1)).all()
        assert float(metrics["null_moved_share"].sel(devices=4)) == 0.75
        assert value(metrics, "moved_share", placement=CONTIGUOUS)[0] > 0.3


def test_more_room_drops_less_and_leaves_more_unused(found):
    metrics = found["texts"].metrics.sel(interval="estimate", composition=IN_ORDER)
    metrics = metrics.isel(room=slice(4))
    rooms = metrics["room"].values.tolist()
    assert rooms == ["1 even share", "1.25 even shares", "1.5 even shares", "2 even shares"]
    for name, sign in (("dropped_share", -1), ("lost_tokens", -1), ("unused_room", 1)):
        assert (sign * np.diff(metrics[name].transpose(..., "room").values) >= 0).all(), name
    even_room = metrics.sel(room="1 even share")
    np.testing.assert_allclose(even_room["dropped_share"], even_room["unused_room"], atol=0.02)  # but for rounding


def test_a_room_in_selections_is_one_more(found):
    metrics = found["texts"].metrics
    assert metrics["room"].values[-1] == "3 selections"
    assert value(metrics, "dropped_share", composition=RANDOM, room="3 selections")[0] > 0.9


def test_placements_are_of_one_half_and_measured_on_the_other(found):
    metrics, draws = found["texts"].metrics, found["texts"].draws
    poems = planted("texts", np.random.default_rng(0))
    odd = poems.group % 2 == 1
    assert int(metrics["tokens"].sel(dataset="pooled")) == odd.sum()
    assert int(metrics["clusters"].sel(dataset="poems")) == len(
        set(poems.documents["cluster"][poems.documents["group"] % 2 == 1])
    )
    assert draws.sizes["draw"] == 1 + GROUPS // 2
    assert metrics.attrs["batches"] == odd.sum() // 100 and metrics.attrs["batch_tokens"] == 100


def test_other_texts_change_no_placement(tmp_path):
    poems = planted("texts", np.random.default_rng(8))
    group = poems.documents["group"]
    changed = planted("texts", np.random.default_rng(9))
    mixed = poems.take(np.flatnonzero(group % 2 == 0))
    both = []
    for number, other in enumerate((poems, changed)):
        theirs = other.take(np.flatnonzero(group % 2 == 1))
        layers = {name: xr.concat([mixed.layers[name], theirs.layers[name]], "token") for name in mixed.layers}
        parts = {name: np.concatenate([mixed.documents[name], theirs.documents[name]]) for name in mixed.documents}
        whole = Case(layers, np.full(DOCUMENTS, LENGTH), np.zeros(DOCUMENTS * LENGTH, np.int32), parts)
        both.append(measured({"x": whole}, tmp_path / f"{number}").metrics)
    assert (both[0]["device"] == both[1]["device"]).all()
    assert (both[0]["devices_per_token"] != both[1]["devices_per_token"]).any()


def test_the_null_of_stragglers_is_placements_at_random(found):
    metrics = found["texts"].metrics
    null = metrics["null_straggler"].transpose("interval", ...).values
    assert (null[1] <= null[0]).all() and (null[0] <= null[2]).all()
    saved = metrics["straggler_saved"].sel(interval="estimate")
    ratio = metrics["straggler"].sel(interval="estimate") / metrics["null_straggler"].sel(interval="estimate")
    xr.testing.assert_allclose(saved, 1 - ratio.transpose(*saved.dims))


def test_copies_even_out_loads(found):
    metrics = found["texts"].metrics
    none, some = (value(metrics, "replica_straggler", replicas=each, composition=IN_ORDER)[0] for each in (0, 4))
    assert some < none
    assert none == pytest.approx(value(metrics, "straggler", placement=BY_LOAD, composition=IN_ORDER)[0])


def test_without_a_second_half_nothing_is_known(tmp_path):
    alone = planted("uniform", np.random.default_rng(0), documents=1)
    metrics = measured({"x": alone}, tmp_path).metrics
    for name in ("devices_per_token", "straggler", "dropped_share", "moved_share", "traffic_saved"):
        assert np.isnan(metrics[name]).all(), name
    shown = seen(metrics)
    assert page.findings(shown) == [] and page.brief(shown) is None
    assert len(page.figures(shown)) == 7


def test_unknown_sizes_of_hidden_states_are_no_bytes(tmp_path, found):
    metrics = found["texts"].metrics
    assert "A hidden state has 10 bytes: " in page._trade_off(metrics).caption
    assert "bytes" not in page._trade_off(metrics.assign_attrs(state_bytes=np.nan)).caption


# ---------------------------------------------------------------- intervals


def texts(rng: np.random.Generator, clusters: int, liking: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cluster and the experts of tokens whose texts differ in the experts that they like."""
    lengths = np.ceil(rng.lognormal(4, 0.4, clusters)).astype(int)
    owner = np.repeat(np.arange(clusters), lengths)
    likes = liking + rng.normal(0, 0.7, (clusters, len(liking)))
    return owner, np.argsort(-likes[owner] - rng.gumbel(size=(len(owner), len(liking))), axis=1)[:, :2]


@pytest.mark.slow
@pytest.mark.parametrize("composition", [RANDOM, IN_ORDER])
def test_intervals_of_stragglers_hold_what_other_texts_have(composition):
    rng = np.random.default_rng(10)
    liking, device, size = rng.normal(0, 0.3, 8), places.contiguous(8, 4), 400

    def drawn():
        owner, selected = texts(rng, 60, liking)
        order = rng.permutation(len(owner)) if composition == RANDOM else np.arange(len(owner))
        kept = order[: len(owner) // size * size]
        batches = Batches(kept, owner[kept] % 10, np.arange(len(kept)) // size, 10, len(kept) // size)
        count = batches.counts(selected, 8).astype(float)
        tokens = np.bincount(owner % 10, minlength=10)
        sums = np.bincount(owner % 10, places.devices_of(device, selected), 10)
        devices = np.append(sums.sum(), sums.sum() - sums) / np.append(tokens.sum(), tokens.sum() - tokens)
        return straggler(count @ np.eye(4)[device]), devices

    truth = np.mean([[each[0] for each in drawn()] for _ in range(400)], axis=0)
    inside = []
    for _ in range(200):
        ends = [jackknife(xr.DataArray(each, dims="draw")).values[1:] for each in drawn()]
        inside.append([low <= true <= high for true, (low, high) in zip(truth, ends, strict=True)])
    print(composition, truth, np.mean(inside, axis=0))
    assert (np.mean(inside, axis=0) >= 0.88).all()


# ---------------------------------------------------------------- what a server reads, and the page


def test_loads_for_a_server_have_a_step_a_dataset_and_all_layers():
    rng = np.random.default_rng(11)
    study = {"poems": planted("texts", rng, 5), "code": planted("uniform", rng, 6)}
    counts = np.array(
        json.loads(json.dumps(served.expert_location({n: c.tally() for n, c in study.items()})))["logical_count"]
    )
    assert counts.shape == (2, 5, EXPERTS) and counts.dtype == np.int64
    assert not counts[:, [0, 2, 3]].any()
    for step, made in enumerate(study.values()):
        for layer, one in made.layers.items():
            assert (
                counts[step, layer].tolist()
                == np.bincount(one["selected_expert"].values.ravel(), minlength=EXPERTS).tolist()
            )


def test_dense_layers_after_the_last_one_have_a_place():
    tally = planted("uniform", np.random.default_rng(0), 3).tally()
    rule = json.loads(tally.attrs["routing_rule"]) | {"dense_layers": [0, 6]}
    found = served.expert_location({"x": tally.assign_attrs(routing_rule=json.dumps(rule))})
    assert np.shape(found["logical_count"]) == (1, 7, EXPERTS)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", 64), ("bfloat16", 32), ("float8_e4m3fn", 16), (None, np.nan)]
)
def test_bytes_of_hidden_states(tmp_path, dtype, expected):
    made = planted("uniform", np.random.default_rng(0), 3)
    folder = tmp_path / "x"
    attrs = {} if dtype is None else {"computation": json.dumps({"dtype": dtype})}
    netcdf.save(made.layers[1].assign_attrs(attrs), folder / "layer_1.nc")
    assert np.isnan(served.state_bytes(folder))
    states = xr.Dataset({"state": (("layer", "sample", "hidden"), np.zeros((1, 2, 16), np.float32))})
    netcdf.save(states, folder / "states.nc")
    np.testing.assert_equal(served.state_bytes(folder), expected)


def test_the_answers_to_planted_routing(found):
    answers = {
        kind: {each.measure: each.verdict for each in page.findings(seen(made.metrics))} for kind, made in found.items()
    }
    assert answers["blocks"]["traffic_saved"] == "yes" and answers["apart"]["traffic_saved"] == "unclear"
    assert answers["uniform"]["straggler_saved"] != "yes"
    assert answers["texts"]["composition_cost"] == "yes" and answers["texts"]["moved_share"] == "yes"
    said = page.brief(seen(found["blocks"].metrics))
    assert said.text.startswith("On 4 devices experts that are placed by co-activation save ")
    assert page.brief(seen(found["apart"].metrics)).text.startswith("Nothing shows that ")
