"""Circuits: a planted one is found, none where there is none, and ratios with their intervals."""

import json
from functools import partial

import circuit_cases
import numpy as np
import pytest
import scipy.stats
import torch
from circuit_cases import FIRST, SECOND
from families import causal_model

from gatebook.chapters.base.page import Seen
from gatebook.chapters.expert_circuits import KINDS, RECOMPUTED, WITHIN, Chosen, Thresholds, measure, page, trace
from gatebook.chapters.expert_circuits.circuits import behaviour
from gatebook.routing.edges import Asked, Parts
from gatebook.routing.node_list import ATTENTION, EMBEDDING, EXPERT, OUTPUT, REST

STATISTICS = {"resamples": 100, "seed": 1, "confidence": 0.95}
FEW = {"pairs": 16, "sizes": [1, 2, 3, 4], "random": 8, "random_sizes": [2], "others": 4, "edges": 6, "random_edges": 6}
SETTINGS = Chosen(**FEW).model_dump()


@pytest.fixture(autouse=True)
def one_thread():
    """Small products are not faster on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def traced(carried: str) -> trace.Traced:
    """What is traced of the planted model."""
    parts = Parts(circuit_cases.planted(carried))
    choose = partial(measure.choose, enough=0.9, **STATISTICS)
    return trace.trace(
        parts, circuit_cases.pairs(), SETTINGS, choose, partial(measure.does, fewest_clusters=4, **STATISTICS), 1000
    )


def measured(found: trace.Traced):
    """Its metrics."""
    return measure.measure({"task": found}, {}, [], SETTINGS, fewest_clusters=4, **STATISTICS).sel(task="task")


@pytest.fixture(scope="module")
def found() -> trace.Traced:
    """The planted circuit, as it is traced."""
    return traced("experts")


def test_the_planted_experts_are_found(found):
    names = [found.nodes.name(node) for node in found.circuit(RECOMPUTED)]
    assert sorted(names) == [f"L0E{FIRST}", f"L1E{SECOND}"]
    metrics = measured(found)
    for kind in KINDS:
        chosen = metrics["chosen"].sel(kind=kind)
        assert (chosen.sel(interval="low") > 0.9).all() and (chosen < 1.1).all()
    assert metrics["experts_part"].sel(direction="both", interval="low") > 0.9
    assert (abs(metrics["left"]) < 0.1).all()  # complete
    assert (metrics["lost"].sel(interval="low").values > 0.5).all()  # minimal
    assert abs(metrics["added"]).max() < 0.05 and metrics["most_added"] < 0.1
    assert metrics["null_chosen"].sel(kind=RECOMPUTED, direction="both", interval="estimate") < 0.5
    assert metrics["smallest_size"].sel(kind=RECOMPUTED, direction="both", interval="estimate") == 2


def test_its_edges_are_the_strongest_and_carry_all_of_it(found):
    nodes = found.nodes
    path = [nodes.number(EMBEDDING), nodes.number(EXPERT, 0, FIRST), nodes.number(EXPERT, 1, SECOND)]
    planted = set(zip(path, [*path[1:], nodes.number(OUTPUT, 2)], strict=True))
    assert {tuple(edge) for edge in found.edges[:3].tolist()} == planted
    metrics = measured(found)
    effect = metrics["edge_effect"].sel(interval="estimate").values
    assert (effect[:3] > 0.8).all() and (abs(effect[3:]) < 0.1).all()
    assert metrics["random_edge_effect"].sel(interval="high") < 0.02


def test_without_experts_that_carry_it_none_is_needed():
    metrics = measured(traced("embedding"))
    assert metrics["does"] == 1 and metrics["gap"].sel(interval="low") > 1
    assert abs(metrics["experts_part"]).max() < 0.02
    assert abs(metrics["edge_effect"][metrics["sender"] != EMBEDDING]).max() < 0.02
    first = metrics.isel(edge=0)
    assert (first["sender"].item(), first["receiver"].item()) == (EMBEDDING, OUTPUT)
    assert first["edge_effect"].sel(interval="low") > 0.9
    for name in ("chosen", "faithfulness", "left", "lost", "added"):  # a share of nothing is not known
        part = metrics[name]
        assert part.sel(kind=RECOMPUTED).isnull().all() if "kind" in part.dims else part.isnull().all(), name


def seen_of(*tasks: trace.Traced) -> Seen:
    """What the page is made from, of tasks and as many checkpoints, of which the last one is the studied one."""
    named = {f"task {number}": found for number, found in enumerate(tasks)}
    then = {name: [found, found] for name, found in named.items()}
    made = measure.measure(named, then, ["step1", "step2"], SETTINGS, fewest_clusters=4, **STATISTICS)
    return Seen(
        made.assign_attrs(titles=json.dumps(dict.fromkeys(named, "a planted one"))),
        None,
        Thresholds(few=0.2).model_dump(),
    )


def test_the_page_says_what_was_found_and_what_was_not(found):
    seen = seen_of(found, traced("nothing"))
    findings = page.findings(seen)
    verdicts = {finding.question: finding.verdict for finding in findings}
    assert verdicts["Does the model do the task task 0?"] == "yes"
    assert verdicts["Does the model do the task task 1?"] != "yes"
    assert verdicts["Does it take these experts for the task task 0, and not any of their layers?"] == "yes"
    assert verdicts["Is the circuit of the task task 0 complete?"] == "yes"
    assert sum("task 1" in question for question in verdicts) == 1
    figures = {figure.name: figure for figure in page.figures(seen)}
    assert {finding.figure for finding in findings} <= figures.keys() and "circuit_task 1" not in figures
    assert f"L0E{FIRST} → L1E{SECOND}" in figures["circuit_task 0"].caption
    assert f"layer 1, expert {SECOND}" in figures["circuit_task 0"].names
    (shown,) = page.explored(seen).graphs
    assert shown["nodes"][0]["name"] == EMBEDDING and len(shown["edges"]) >= 3
    brief = page.brief(seen)
    assert (brief.layer, *brief.experts) in {(0, FIRST), (1, SECOND)}


def test_the_page_says_that_experts_do_not_carry_it():
    seen = seen_of(traced("embedding"))
    verdicts = {finding.question: finding.verdict for finding in page.findings(seen)}
    assert verdicts["Do experts carry the task task 0?"] == "no" and page.figures(seen)


def test_a_model_that_does_not_do_the_task_has_no_circuit():
    found = traced("nothing")
    assert found.orders == {} and found.edges is None
    metrics = measured(found)
    assert metrics["does"] == 0 and metrics["faithfulness"].isnull().all() and metrics["edge_effect"].isnull().all()
    assert metrics["gap"].notnull().all()


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe"])
def test_circuits_are_what_their_nodes_make_them(family):
    """The whole one is the base, the empty one the other prompt, and a node alone outside what a path to it gives."""
    parts = Parts(causal_model(family))
    ids = torch.randint(3, 90, (3, 5), generator=torch.Generator().manual_seed(1))
    other_ids = ids.clone()
    other_ids[:, 2] += 1
    base, other = parts.run(ids), parts.run(other_ids)
    asked = Asked(torch.tensor([4, 3, 4]), torch.tensor([1, 2, 3]), torch.tensor([5, 6, 7]))
    nodes, last = parts.nodes, len(parts.layers)
    said = [parts.difference(run.inputs[last], asked) for run in (base, other)]
    circuits = torch.ones(2, len(nodes.kind), dtype=torch.bool)
    circuits[1] = False
    whole, empty = behaviour(parts, base, other, asked, circuits, 15)
    torch.testing.assert_close(whole, said[0])
    torch.testing.assert_close(empty, said[1])  # the tokens before which they end are the same
    alone = torch.ones(len(nodes.kind), len(nodes.kind), dtype=torch.bool).fill_diagonal_(False)
    found = behaviour(parts, base, other, asked, alone, 60)
    differences = {}
    for sender in parts.senders(base, other):
        for number in sender.nodes.unique().tolist():
            hit = (sender.nodes == number)[..., None]
            differences[number] = (sender.place, torch.where(hit, sender.values, 0).sum(dim=2))
    tried = 0
    for number in np.flatnonzero(np.isin(nodes.kind, (ATTENTION, REST, EXPERT))).tolist():
        place, more = differences.get(number, (0, None))
        layer = int(nodes.layer[number])
        if more is None:
            wanted = said[0]
        elif place % 2 == 0:  # attention
            wanted = parts.resumed(layer + 1, parts.after(layer, base.middles[layer] + more), asked)
        else:
            wanted = parts.resumed(layer + 1, base.inputs[layer + 1] + more, asked)
        torch.testing.assert_close(found[number], wanted, rtol=1e-4, atol=1e-5)
        tried += int(not torch.allclose(wanted, said[0], atol=1e-4))
    assert tried > 10


def test_pairs_of_one_source_are_on_one_side_and_first_ones_are_taken_in_turn():
    source = np.array(["a", "b", "a", "c", "b", "a"], dtype=object)
    ranked = trace.halves(source, 3)
    assert len({(one, bool(side)) for one, side in zip(source, ranked, strict=True)}) == 3 and 0 < ranked.sum() < 6
    assert trace.first_sources(source, 4).tolist() == [0, 1, 2, 3]
    assert trace.first_sources(source, 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_model_that_does_not_come_apart_is_told_why():
    parts = Parts(causal_model("flex_olmo"))
    found = trace.trace(parts, circuit_cases.pairs(6), SETTINGS, lambda found, kind: 0, lambda found: True, 1000)
    assert found.orders == {} and "no norm stands before its experts" in found.reason
    seen = seen_of(found)
    assert "No circuit of it is known: model_type 'flex_olmo'" in page.findings(seen)[0].answer
    assert [figure.name for figure in page.figures(seen)] == ["gate", "training"] and page.explored(seen) is None


def test_with_one_source_nothing_is_traced():
    source = np.full(6, "one", dtype=object)
    said = np.array([[[2.0] * 6, [-2.0] * 6], [[2.0] * 6, [-2.0] * 6]])
    found = trace.Traced(source, trace.halves(source, 1), said, None)
    assert not measure.does(found, fewest_clusters=1, **STATISTICS)
    metrics = measured(found)
    assert metrics["does"] == 0 and metrics["gap"].sel(interval="estimate") == 4 and metrics["gap"].isnull().sum() == 2
    found.source = np.arange(6).astype(str)
    assert measure.does(found, fewest_clusters=6, **STATISTICS) and not measure.does(
        found, fewest_clusters=7, **STATISTICS
    )


# ---------------------------------------------------------------- statistics


def test_faithfulness_is_a_ratio_of_sums_by_hand():
    draws = measure.Draws(np.array(["a", "b"]), 50, 1, "task")
    whole, empty = np.array([[4.0, 8.0], [2.0, 2.0]]), np.array([[0.0, 2.0], [-2.0, 0.0]])
    curve = np.array([[[2.0, 5.0]], [[2.0, 2.0]]])  # (direction, circuit, pair)
    found = measure.faithfulness(curve, whole, empty, draws)
    assert found[:, 0, 0].tolist() == [5 / 10, 6 / 6, 11 / 16]
    assert set(np.round(found[0, 0, 1:], 6)) <= {round(2 / 4, 6), round(3 / 6, 6), 0.5}


def test_areas_by_hand():
    curve = np.array([0.0, 0.5, 1.5])[:, None]  # at 0, 2 and 4 of 8 nodes, and 1 at all
    under, apart = (float(each[0]) for each in measure.area(np.array([0, 2, 4]), 8, curve))
    assert under == pytest.approx(0.25 * (0.25 + 1.0) + 0.5 * 1.25)
    assert apart == pytest.approx(0.25 * (0.75 + 0.5) + 0.5 * 0.25)


def test_the_smallest_size_is_where_each_end_passes():
    limits = np.array([[0.5, 0.4, 0.95], [0.92, 0.85, 0.97], [0.96, 0.91, 1.0]])
    assert measure.smallest(np.array([1, 2, 4]), limits, 0.9, 9).tolist() == [2, 1, 4]
    assert measure.smallest(np.array([1, 2, 4]), limits, 0.95, 9).tolist() == [4, 1, 9]  # all are enough
    limits[:, 1:] = np.nan
    np.testing.assert_equal(measure.smallest(np.array([1, 2, 4]), limits, 0.9, 9), [2, np.nan, np.nan])


def test_correlations_are_those_of_scipy():
    one, other = np.random.default_rng(0).normal(size=(2, 12, 3))
    found = measure.correlations(one, other)
    for draw in range(3):
        pair = one[:, draw], other[:, draw]
        assert found["pearson"][draw] == pytest.approx(scipy.stats.pearsonr(*pair)[0])
        assert found["spearman"][draw] == pytest.approx(scipy.stats.spearmanr(*pair)[0])


def test_a_size_is_chosen_by_the_lower_end_in_both_directions():
    rng, pairs = np.random.default_rng(1), 40
    said = np.stack([[np.full(pairs, 4.0), np.full(pairs, -4.0)]] * 2)
    shares = np.array([[0, 0.5, 0.95, 0.98], [0, 0.3, 0.7, 0.97]])  # (direction, size)
    curve = 8 * shares[..., None] - 4 + rng.normal(0, 0.1, (2, 4, pairs))
    source = np.arange(pairs).astype(str)
    found = trace.Traced(source, np.arange(pairs) % 2 == 0, said, None, curves={WITHIN: curve})
    choose = partial(measure.choose, found, WITHIN, **STATISTICS)
    assert choose(enough=0.9) == 3 and choose(enough=0.6) == 2 and choose(enough=0.99) == 3


def test_intervals_of_ratios_cover_the_true_ratio():
    """Of sources of unequal sizes with effects of their own, about 95 in 100 intervals hold the ratio of means."""
    rng, held, trials = np.random.default_rng(5), 0, 200
    for _ in range(trials):
        source = np.repeat(np.arange(20), rng.integers(1, 4, 20))
        shift = rng.normal(0, 1, 20)[source]
        below = 6 + shift + rng.normal(0, 1, len(source))
        above = 0.8 * (6 + shift) + 1.5 * rng.normal(0, 1, 20)[source] + rng.normal(0, 1, len(source))
        draws = measure.Draws(source.astype(str), 200, int(rng.integers(1e6)), "task")
        _, low, high = measure._limits(draws.ratio(above, below), 0.95)
        held += low <= 0.8 <= high
    assert 0.9 <= held / trials <= 0.99
