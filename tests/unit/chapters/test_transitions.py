"""Transitions: what ids give of them, planted routing in two layers, predictions, flows, the page."""

from functools import partial
from itertools import pairwise

import numpy as np
import page_cases
import pytest
import xarray as xr
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.transitions import BOTH, FIRST, TOKEN, expected, flows, measure, page
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.explained import partners
from gatebook.measures.uncertainty import jackknife, miller_madow
from gatebook.study import routed

seen = partial(page_cases.seen, "transitions")

pytestmark = pytest.mark.filterwarnings("error")

EXPERTS, TYPES = 6, 5


def in_layers(choices: list[np.ndarray], lengths: list[int], token_id: np.ndarray) -> Case:
    """A dataset whose tokens choose one expert in each layer."""
    made = {number: records(logits_for(choice[:, None], EXPERTS), 1) for number, choice in enumerate(choices)}
    return case(made, lengths, token_id)


def planted(kind: str, rng: np.random.Generator, documents: int = 60, length: int = 60) -> Case:
    """Two layers: both follow the id, or the text; the second follows the first; or nothing follows anything."""
    tokens = documents * length
    token_id, noise = rng.integers(0, TYPES, tokens), rng.integers(0, EXPERTS, (2, tokens))
    text = np.repeat(rng.integers(0, EXPERTS, documents), length)
    choices = {
        "ids": [token_id, (2 * token_id) % EXPERTS],
        "text": [text, (text + 2) % EXPERTS],
        "chain": [noise[0], (noise[0] + 1) % EXPERTS],
        "nothing": list(noise),
    }[kind]
    return in_layers(choices, [length] * documents, token_id)


def measured(study: dict[str, Case], folder, **options):
    paths = written(study, folder)
    read = routed.read(**paths)
    options = {"tokens": 10**6, "seed": 1, "confidence": 0.95} | options
    return measure.measure(read, routed.read_layers(read, paths["records"], "router_logits"), **options)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The metrics of every planted study."""
    kinds = ("ids", "text", "chain", "nothing")
    rng = np.random.default_rng(5)
    return {kind: measured({"poems": planted(kind, rng)}, tmp_path_factory.mktemp(kind)).metrics for kind in kinds}


def value(metrics: xr.Dataset, name: str, **where) -> float:
    values = metrics[name].sel(layer=1, interval="estimate", **where)
    return float(values.sel(dataset="pooled") if "dataset" in values.dims else values)


# ---------------------------------------------------------------- what a class gives


def brute(code, group, before, after, experts, left_out=None) -> np.ndarray:
    """Expected counts, token by token."""
    total = np.zeros((experts, experts))
    for token in range(len(code)):
        others = (code == code[token]) & (group != group[token]) & (group != left_out)
        if group[token] != left_out and others.any():
            total[:, after[token]] += np.bincount(before[others], minlength=experts) / others.sum()
    return total


def test_expected_counts_are_those_of_tokens_of_the_class_in_other_groups(monkeypatch):
    rng = np.random.default_rng(1)
    code, group = rng.integers(0, 9, 90), rng.integers(0, 4, 90)
    code[:3] = [50, 51, 50]  # of one group, or alone
    group[:3] = 0
    before, after = rng.integers(0, 5, (2, 90))
    known = partners(code, group, np.zeros(90, int), 1)
    for cells in (expected.CELLS, 7, 1):
        monkeypatch.setattr(expected, "CELLS", cells)
        found = expected.expected(known, before, after, 5)
        np.testing.assert_allclose(found[0], brute(code, group, before, after, 5), rtol=1e-6)
        for left_out in range(GROUPS):
            wanted = brute(code, group, before, after, 5, left_out)
            np.testing.assert_allclose(found[1 + left_out], wanted, rtol=1e-5, atol=1e-5)
    assert (found[5:] == found[0]).all()


def test_expected_counts_without_a_partner_are_none():
    alone = np.arange(6)
    known = partners(alone, alone, np.zeros(6, int), 1)
    assert (expected.expected(known, alone, alone, 6) == 0).all()


def test_no_token_is_its_own_partner():
    """Rare ids whose tokens choose the same at random in both layers: ids alone give nothing, and no more."""
    rng = np.random.default_rng(2)
    code, group = np.tile(np.arange(3000), 2), np.repeat([0, 1], 3000)
    choice = rng.integers(0, 4, 6000)
    counts = expected.expected(partners(code, group, np.zeros(6000, int), 1), choice, choice, 4)[:1]
    assert measure._information(counts, measure._entropy)[0] < 0.01
    # A permutation within an id would keep the pair of half of the tokens.
    assert measure._information(np.diag(np.bincount(choice))[None], miller_madow)[0] == pytest.approx(2, abs=0.01)


# ---------------------------------------------------------------- planted routing


def test_what_is_planted_is_found(found):
    entropy = np.log2(EXPERTS)
    assert value(found["ids"], "mutual_information") == pytest.approx(
        value(found["ids"], "information_of_ids"), abs=0.01
    )
    assert value(found["chain"], "mutual_information") == pytest.approx(entropy, abs=0.01)
    assert value(found["chain"], "next_entropy") == pytest.approx(entropy, abs=0.01)
    for kind in ("text", "chain", "nothing"):
        assert value(found[kind], "information_of_ids") < 0.02, kind
    assert abs(value(found["nothing"], "mutual_information")) < 0.01
    one = {"ids": [TOKEN, BOTH], "text": [FIRST, BOTH], "chain": [FIRST, BOTH], "nothing": []}
    for kind, names in one.items():
        for name in (FIRST, TOKEN, BOTH):
            share = value(found[kind], "share_explained", **{"class": name})
            if name in names:
                assert share == pytest.approx(1), (kind, name)
            elif kind != "ids":  # of which two share an expert
                assert abs(share) < 0.05, (kind, name, share)
        assert value(found[kind], "share_added") == pytest.approx(float(kind in ("text", "chain")), abs=0.05)


def test_predictions_are_of_other_groups(found):
    for kind in ("ids", "chain"):
        assert value(found[kind], "next_accuracy") == 1
    assert value(found["nothing"], "next_accuracy") == pytest.approx(1 / EXPERTS, abs=0.03)
    counts = np.random.default_rng(3).integers(0, 9, (GROUPS * 2, 3, 3))
    counts[2:] = 0
    counts[6] = np.diag([5, 5, 9])
    hits, tokens = np.zeros((2, 2)), np.zeros(2)
    parts = counts.reshape(GROUPS, 2, 3, 3)
    for group in (0, 3):
        others = parts.sum(axis=(0, 1)) - parts[group].sum(axis=0)
        most = others.sum(axis=0).argmax()
        for dataset in range(2):
            for row in range(3):
                told = others[row].argmax() if others[row].any() else most
                hits[:, dataset] += parts[group, dataset, row, [told, most]]
            tokens[dataset] += parts[group, dataset].sum()
    np.testing.assert_allclose(measure._accuracies(counts)[:, 0, 1:], hits / tokens)


def test_information_by_hand_and_by_miller_and_madow():
    even = np.array([[[10, 0], [0, 10]], [[5, 5], [5, 5]]])
    np.testing.assert_allclose(measure._information(even, measure._entropy), [1, 0], atol=1e-12)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(400, np.full(16, 1 / 16), 3000).reshape(-1, 4, 4)
    assert abs(measure._information(drawn, miller_madow).mean()) < 0.002
    assert measure._information(drawn, measure._entropy).mean() > 0.01


def test_correlations_are_those_of_selections():
    rng = np.random.default_rng(4)
    group = rng.integers(0, 5, 200)
    before, after = (np.argsort(rng.random((200, 4)), axis=1)[:, :2] for _ in range(2))
    found = measure._correlation(group, before, after, 4)
    for draw in (0, 3):
        kept = group != draw - 1
        one, other = (np.eye(4)[each[kept]].sum(axis=1).T for each in (before, after))
        np.testing.assert_allclose(found[draw], np.corrcoef(one, other)[:4, 4:])


def test_the_error_of_equal_numbers_is_that_of_random_ones():
    correlation = np.random.default_rng(0).normal(0, 0.1, (7, 7)) + np.linspace(0, 1, 7)
    rng = np.random.default_rng(1)
    drawn = [np.mean(correlation[np.arange(7), rng.permutation(7)]) for _ in range(20_000)]
    assert measure._by_chance(correlation) == pytest.approx(np.std(drawn), rel=0.03)
    assert np.isnan(measure._by_chance(np.full((3, 3), np.nan)))


def test_numbers_of_experts_mean_nothing(found, tmp_path):
    made = planted("chain", np.random.default_rng(5))
    turned = np.random.default_rng(0).permutation(EXPERTS)
    layers = [turned[made.layers[number]["selected_expert"].values[:, 0]] for number in (0, 1)]
    other = measured({"poems": in_layers(layers, made.lengths.tolist(), made.token_id)}, tmp_path / "turned").metrics
    same = measured({"poems": made}, tmp_path / "same").metrics
    for name in ("mutual_information", "share_added", "next_accuracy"):
        np.testing.assert_allclose(same[name], other[name], atol=1e-12)
    np.testing.assert_array_equal(other["flow"].values[:, turned][:, :, turned], same["flow"].values)


def test_of_one_layer_nothing_is_known(tmp_path):
    made = planted("nothing", np.random.default_rng(0), 8, 20)
    metrics = measured({"x": Case({3: made.layers[0]}, made.lengths, made.token_id, made.documents)}, tmp_path).metrics
    assert metrics["layer"].values.tolist() == [3] and np.isnan(metrics["mutual_information"]).all()
    shown = seen(metrics)
    assert page.findings(shown) == [] and page.brief(shown) is None and page.explored(shown) is None
    assert len(page.figures(shown)) == 3


def drawn(rng: np.random.Generator) -> np.ndarray:
    """Draws of what is beyond ids, and added to them, of routing by ids alone in texts that differ in their ids."""
    lengths = np.ceil(rng.lognormal(4.3, 0.5, 60)).astype(int)
    owner = np.repeat(np.arange(60), lengths)
    mixture = rng.dirichlet(np.full(TYPES, 2), 60)[owner].cumsum(axis=1)
    token = (rng.random(len(owner))[:, None] > mixture).sum(axis=1).clip(max=TYPES - 1)
    of_id = np.random.default_rng(0).dirichlet(np.ones(4), (2, TYPES)).cumsum(axis=-1)
    choices = [(rng.random(len(owner))[:, None] > table[token]).sum(axis=1).clip(max=3)[:, None] for table in of_id]
    group, none = owner % GROUPS, np.zeros(len(owner), np.int64)
    known = partners(token, group, none, 1)
    found = measure._pair(measure._Text(token, group, none, known, known, 1), choices, (None, None), 4)
    share = found["share_explained"].values[:, :, 0]
    return np.array([found["mutual_information"] - found["information_of_ids"], share[2] - share[1]])


@pytest.mark.slow
def test_intervals_hold_0_where_ids_alone_decide():
    rng, inside = np.random.default_rng(7), []
    for _ in range(100):
        ends = [jackknife(xr.DataArray(one, dims="draw")).values[1:] for one in drawn(rng)]
        inside.append([low <= 0 <= high for low, high in ends])
    assert (np.mean(inside, axis=0) >= 0.88).all(), np.mean(inside, axis=0)


# ---------------------------------------------------------------- flows and the page


def flowing(flow, expected_counts, layers=(1, 2)) -> xr.Dataset:
    """Metrics that hold flows between some layers."""
    dims, experts = ("layer", "expert", "other"), np.shape(flow)[-1]
    ratio = np.divide(flow, expected_counts)
    return xr.Dataset(
        {
            "flow": (dims, np.asarray(flow, float)),
            "expected": (dims, np.asarray(expected_counts, float)),
            "lift": ((*dims, "interval"), np.stack([ratio, 0.9 * ratio, 1.1 * ratio], axis=-1)),
            "before": ("layer", np.array(layers) - 1),
        },
        coords={"layer": list(layers), "expert": range(experts), "other": range(experts)}
        | {"interval": ["estimate", "low", "high"]},
    )


def test_experts_stand_where_their_tokens_come_from():
    """Flows that keep an order, hidden by random numbers, are brought to the diagonal, in all layers at once."""
    rng, experts = np.random.default_rng(0), 16
    near = np.exp(-((np.subtract.outer(np.arange(experts), np.arange(experts)) / 2) ** 2)) * 100
    turns = [rng.permutation(experts) for _ in range(3)]
    flow = [near[one][:, other] for one, other in pairwise(turns)]
    even = [np.full((experts, experts), each.mean()) for each in flow]
    for turn, order in zip(turns, flows.orders(flowing(flow, even)), strict=True):
        hidden = turn[order]
        assert np.corrcoef(hidden, np.arange(experts))[0, 1] ** 2 > 0.9


def test_bars_hold_all_tokens_and_the_rest_is_one_bar():
    rng = np.random.default_rng(1)
    flow = rng.integers(1, 50, (2, 20, 20))
    flow[1] = flow[1] * 0 + rng.multinomial(flow[0].sum(), np.full(400, 1 / 400)).reshape(20, 20)
    counts = flow.mean() + rng.random(flow.shape)
    for index, found in enumerate(flows.flows(flowing(flow, counts))):
        assert found.layers == (index, index + 1)
        for bars in (found.rows, found.columns):
            assert len(bars) == flows.MOST_BARS + 1 and bars[-1] == flows.OTHERS and len(set(bars)) == len(bars)
        assert found.tokens.sum() == flow[index].sum() and found.expected.sum() == pytest.approx(counts[index].sum())
        one, other = found.rows[2], found.columns[5]
        assert found.tokens[2, 5] == flow[index, one, other]
        assert found.low[2, 5] == pytest.approx(0.9 * found.lift[2, 5])
        assert np.isnan(found.low[-1]).all() and np.isnan(found.high[:, -1]).all()
        rest = [expert for expert in range(20) if expert not in found.columns]
        assert found.tokens[2, -1] == flow[index, one, rest].sum()
    few = flows.flows(flowing([np.diag([5, 0, 7])], [np.ones((3, 3))], (1,)))[0]
    assert sorted(few.rows) == sorted(few.columns) == [0, 2]


def findings(metrics: xr.Dataset, untrained: xr.Dataset | None = None) -> dict[str, object]:
    """The findings by the first words that tell them apart."""
    return dict(
        zip(("share", "information", "prediction", "number"), page.findings(seen(metrics, untrained)), strict=True)
    )


def test_the_answers_to_planted_routing(found):
    verdicts = {
        kind: {name: each.verdict for name, each in findings(metrics).items()} for kind, metrics in found.items()
    }
    for kind, answer in (("text", "yes"), ("chain", "yes"), ("nothing", "unclear")):
        assert verdicts[kind]["share"] == answer and verdicts[kind]["information"] == answer, kind
    assert verdicts["ids"]["share"] == "unclear" and verdicts["ids"]["prediction"] == "yes"
    assert verdicts["chain"]["number"] == "unclear"


def test_the_brief_names_the_surest_flow_or_says_that_nothing_shows_one(found):
    said = page.brief(seen(found["chain"], found["nothing"]))
    assert "explains 99.96 %" in said.text and said.layer == 1 and len(said.experts) == 1
    expert = said.experts[0]
    assert f"expert {(expert - 1) % EXPERTS} to layer 1 expert {expert} go" in said.example
    none = page.brief(seen(found["nothing"]))
    assert none.text.startswith("Nothing shows that") and none.experts == ()


def test_a_flow_has_a_row_for_each_pair_of_bars(found):
    figures = {figure.name: figure for figure in page.figures(seen(found["chain"]))}
    data = figures["flow_0_to_1"].data
    assert data["tokens"].sum() == 3600 and len(data) == EXPERTS**2
    whole = data[data["tokens"] > 0]
    assert ((whole["from"].astype(int) + 1) % EXPERTS == whole["to"].astype(int)).all()
    shown = page.explored(seen(found["chain"]))
    assert shown.layers == [0, 1] and shown.steps[0].tokens.sum() == 3600


def test_correlations_of_logits_are_those_of_numpy_and_need_logits(tmp_path):
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(2, 300, EXPERTS)).astype(np.float32)
    logits[1] = 0.5 * logits[0][:, ::-1] + logits[1] + rng.normal(size=(300, 1))
    made = {number: records(layer, 2) for number, layer in enumerate(logits)}
    study = {"a": case(made, [30] * 10, rng.integers(0, TYPES, 300))}
    found = measured(study, tmp_path).metrics["logit_correlation"].sel(layer=1)
    centred = logits.astype(np.float64) - logits.mean(axis=2, keepdims=True)
    wanted = np.corrcoef(centred[0].T, centred[1].T)[:EXPERTS, EXPERTS:]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.fliplr(found).trace() > 2
    read = routed.read(**(paths := written(study, tmp_path / "again")))
    layers = routed.read_layers(read, paths["records"])
    without = measure.measure(read, layers, tokens=300, seed=1, confidence=0.95).metrics
    assert np.isnan(without["logit_correlation"]).all() and without["flow"].sum() > 0
