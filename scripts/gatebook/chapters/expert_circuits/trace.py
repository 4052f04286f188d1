"""Tracing: a model runs on the pairs of a task, as it is, as circuits, and with single edges patched.

What it says is the logit of the right answer minus that of the wrong one. Direction 0 is the pairs as given, with the
clean prompt as the base; in direction 1 clean and corrupt, and so right and wrong, are swapped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from gatebook.chapters.expert_circuits import KINDS, RECOMPUTED
from gatebook.chapters.expert_circuits.circuits import behaviour
from gatebook.problem import Problem
from gatebook.routing.edges import Asked, Parts, Run
from gatebook.routing.node_list import ATTENTION, EXPERT, REST, Nodes
from gatebook.study.pairs import Pairs

GROUPS = 3
"""Of pairs by length."""


@dataclass
class Traced:
    """What a model said of a task; all arrays float64 if nothing else is said.

    source (pair,): what pairs share; ranked (pair,) bool: on which nodes are ranked, circuits are tested on the others.
    said (direction, prompt, pair): of the base and of the other prompt. nodes: of the model. By kind of circuit: orders
    (node,) int, best first; curves (direction, size, pair) with sizes (size,) int, the empty circuit first; chosen, the
    number of the size that was chosen. Of tested pairs alone, by kind: random (direction, draw, pair), circuits in the
    shape of the chosen one. Of circuits of experts alone: random_curves (size, draw, pair) in direction 0, with
    random_sizes; without (direction, member, pair); outside (direction, 1, pair), all experts but the circuit's, and
    random_outside (direction, draw, pair); added (direction, other, pair). edges (edge, 2) int, sender and receiver,
    the `strongest` first and then random ones; attribution and effect (direction, edge, pair), of what is said less.
    reason: why the model cannot be traced, "" if it can.
    """

    source: np.ndarray
    ranked: np.ndarray
    said: np.ndarray
    nodes: Nodes
    orders: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[str, np.ndarray] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    chosen: dict[str, int] = field(default_factory=dict)
    random: dict[str, np.ndarray] = field(default_factory=dict)
    random_sizes: np.ndarray | None = None
    random_curves: np.ndarray | None = None
    without: np.ndarray | None = None
    outside: np.ndarray | None = None
    random_outside: np.ndarray | None = None
    added: np.ndarray | None = None
    edges: np.ndarray | None = None
    strongest: int = 0
    attribution: np.ndarray | None = None
    effect: np.ndarray | None = None
    reason: str = ""

    @property
    def tested(self) -> np.ndarray:
        """The pairs on which circuits are tested: (pair,) bool."""
        return ~self.ranked

    def circuit(self, kind: str) -> np.ndarray:
        """The nodes of the chosen circuit of a kind, best first."""
        return self.orders[kind][: self.sizes[kind][self.chosen[kind]]]


def halves(source: np.ndarray, seed: int) -> np.ndarray:
    """Which pairs nodes are ranked on: those of every second source in random order, (pair,) bool."""
    known, of = np.unique(source.astype(str), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(known)) % 2 == 0)[of]


def first_sources(source: np.ndarray, count: int) -> np.ndarray:
    """At most `count` pairs, in turn of their sources: the first of each, then the second. (row,) int, in order."""
    turn = pd.Series(source).groupby(source.astype(str)).cumcount().to_numpy()
    return np.sort(np.lexsort((np.arange(len(source)), turn))[:count])


class Tracer:
    """A model on the pairs of one task.

    groups: pairs of like length, which run together without much that pads them, (pair,) int64 each.
    """

    def __init__(self, parts: Parts, pairs: Pairs, tokens_per_batch: int):
        """A model and pairs; nothing runs yet."""
        self.parts, self.batch, device = parts, tokens_per_batch, parts.model.device
        self.ids = torch.as_tensor(pairs.ids, device=device)
        self.last, right, wrong = (
            torch.as_tensor(each, device=device) for each in (pairs.lengths - 1, pairs.right, pairs.wrong)
        )
        self.asked = [Asked(self.last, right, wrong), Asked(self.last, wrong, right)]
        self.groups = [np.sort(each) for each in np.array_split(np.argsort(pairs.lengths, kind="stable"), GROUPS)]

    @torch.no_grad()
    def said(self) -> np.ndarray:
        """What the model says of the base and of the other prompt: (direction, prompt, pair)."""
        ends = [self.parts.handed_on(prompt) for prompt in self.ids]
        return np.stack(
            [
                [_numbers(self.parts.difference(ends[prompt], self.asked[way])) for prompt in (way, 1 - way)]
                for way in (0, 1)
            ]
        )

    @cached_property
    def runs(self) -> list[Run]:
        """What the nodes do in both prompts of all pairs."""
        return [self.parts.run(prompt) for prompt in self.ids]

    def behaviour(self, way: int, circuits: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """What circuits (circuit, node) bool say of some pairs (pair,) bool in a direction: (circuit, pair of them)."""
        circuits = torch.as_tensor(circuits, device=self.last.device)
        return self._of_groups(way, pairs, lambda *rows: behaviour(self.parts, *rows, circuits, self.batch))

    def attributed(self, way: int) -> tuple[np.ndarray, np.ndarray]:
        """By how much less is said to first order, of each node (pair, node) and of each edge (pair, node, node)."""
        base, other, asked = self.runs[way], self.runs[1 - way], self.asked[way]
        stream, receivers = self.parts.gradients(base, asked)
        senders = self.parts.senders(base, other)
        nodes, edges = self.parts.node_scores(stream, senders), self.parts.edge_scores(senders, receivers)
        return -_numbers(nodes), -edges.cpu().numpy()

    def patched(self, way: int, edges: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """What is said of some pairs (pair,) bool with each edge patched: (edge, pair of them)."""
        wanted = [tuple(edge) for edge in edges.tolist()]

        def run(base: Run, other: Run, asked: Asked) -> torch.Tensor:
            senders, at_once = self.parts.senders(base, other), max(self.batch // base.token_ids.shape[1], 1)
            return self.parts.patch_paths(base, senders, asked, wanted, at_once).T

        return self._of_groups(way, pairs, run)

    def used(self) -> np.ndarray:
        """Which nodes are experts that some token selects before its prompt ends: (node,) bool."""
        nodes = self.parts.nodes
        found = np.zeros(len(nodes.kind), bool)
        inside = torch.arange(self.ids.shape[2], device=self.last.device) <= self.last[:, None]
        for run in self.runs:
            for layer, selected in run.selected.items():
                found[nodes.number(EXPERT, layer, 0) + selected[inside].unique().cpu().numpy()] = True
        return found

    def _of_groups(self, way: int, pairs: np.ndarray, run: Callable) -> np.ndarray:
        """What `run` gives of base, other prompt and what is asked of some pairs (pair,) bool: (case, pair of them)."""
        found, place = {}, np.cumsum(pairs) - 1
        for group in (group[pairs[group]] for group in self.groups):
            if len(group):
                rows = torch.as_tensor(group, device=self.last.device)
                longest = int(self.last[rows].max()) + 1
                base, other = (self.runs[number].rows(rows, longest) for number in (way, 1 - way))
                said = _numbers(run(base, other, self.asked[way].rows(rows)))
                found |= dict(zip(place[group].tolist(), said.T, strict=True))
        return np.stack([found[number] for number in range(len(found))], axis=-1)


def _numbers(found: torch.Tensor) -> np.ndarray:
    return found.double().cpu().numpy()


def trace(
    parts: Parts,
    pairs: Pairs,
    settings: Mapping,
    choose: Callable[[Traced, str], int],
    does: Callable[[Traced], bool],
    tokens_per_batch: int,
) -> Traced:
    """Trace a task through a model.

    Parameters
    ----------
    parts
        The model.
    pairs
        Of the task.
    settings
        Of the chapter.
    choose
        The number of the size that is chosen of a kind of circuits.
    does
        Whether the model does the task; if not, nothing but what it says is known.
    tokens_per_batch
        So many run at once, if circuits are that small.

    Returns
    -------
    Traced
    """
    tracer = Tracer(parts, pairs, tokens_per_batch)
    nodes = parts.nodes
    found = Traced(pairs.source, halves(pairs.source, settings["seed"]), tracer.said(), nodes)
    if not does(found):
        return found
    try:
        scores, edges = zip(*(tracer.attributed(way) for way in (0, 1)), strict=True)
    except Problem as problem:  # it does not come apart into nodes
        found.reason = str(problem)
        return found
    gaps = found.said[:, 0] - found.said[:, 1]
    rank = found.ranked
    share = np.mean([scores[way][rank].sum(axis=0) / gaps[way, rank].sum() for way in (0, 1)], axis=0)
    every = np.ones(len(rank), bool)
    for kind in KINDS:
        members = np.isin(nodes.kind, (EXPERT,) if kind == RECOMPUTED else (EXPERT, ATTENTION, REST))
        known = np.flatnonzero(members)
        found.orders[kind] = order = known[np.argsort(-share[known], kind="stable")]
        found.sizes[kind] = sizes = np.array([0, *(size for size in settings["sizes"] if size < len(order))])
        circuits = np.stack([_circuit(nodes, kind, order[:size]) for size in sizes])
        found.curves[kind] = np.stack([tracer.behaviour(way, circuits, every) for way in (0, 1)])
        found.chosen[kind] = choose(found, kind)
    _draw(found, tracer, settings)
    _remove(found, tracer, settings)
    _patch(found, tracer, settings, edges, gaps)
    return found


def _circuit(nodes: Nodes, kind: str, members: np.ndarray) -> np.ndarray:
    """A circuit of some members: (node,) bool. In those of experts alone everything else is always in."""
    chosen = ~np.isin(nodes.kind, (EXPERT,)) if kind == RECOMPUTED else np.zeros(len(nodes.kind), bool)
    chosen[members] = True
    return chosen


def _alike(rng: np.random.Generator, nodes: Nodes, members: np.ndarray, used: np.ndarray) -> np.ndarray:
    """As many random experts of the same layers, among those that are used; other members stay. (member,) int."""
    experts = nodes.kind[members] == EXPERT
    drawn = [members[~experts]]
    for layer, count in zip(*np.unique(nodes.layer[members[experts]], return_counts=True), strict=True):
        among = np.flatnonzero(used & (nodes.layer == layer))
        drawn.append(rng.choice(among, min(count, len(among)), replace=False))
    return np.concatenate(drawn)


def _draw(found: Traced, tracer: Tracer, settings: Mapping) -> None:
    """Random circuits: along the curve of experts alone, and in the shape of both chosen ones."""
    rng, nodes, used, tested = np.random.default_rng(settings["seed"] + 1), found.nodes, tracer.used(), found.tested
    draws = range(settings["random"])
    order, sizes = found.orders[RECOMPUTED], found.sizes[RECOMPUTED]
    found.random_sizes = np.array([size for size in settings["random_sizes"] if size in sizes[1:]], int)
    shapes = [order[:size] for size in found.random_sizes]
    circuits = [_circuit(nodes, RECOMPUTED, _alike(rng, nodes, shape, used)) for shape in shapes for _ in draws]
    if circuits:
        said = tracer.behaviour(0, np.stack(circuits), tested)
        found.random_curves = said.reshape(len(shapes), len(draws), -1)
    for kind in KINDS:
        members = [_alike(rng, nodes, found.circuit(kind), used) for _ in draws]
        circuits = np.stack([_circuit(nodes, kind, each) for each in members])
        found.random[kind] = np.stack([tracer.behaviour(way, circuits, tested) for way in (0, 1)])
        if kind == RECOMPUTED:
            circuits = np.stack([_circuit(nodes, kind, np.setdiff1d(order, each)) for each in members])
            found.random_outside = np.stack([tracer.behaviour(way, circuits, tested) for way in (0, 1)])


def _remove(found: Traced, tracer: Tracer, settings: Mapping) -> None:
    """Circuits of experts alone: what all others do, without each member, and with one more."""
    rng, nodes, tested = np.random.default_rng(settings["seed"] + 2), found.nodes, found.tested
    circuit, order = found.circuit(RECOMPUTED), found.orders[RECOMPUTED]
    others = np.setdiff1d(np.flatnonzero(tracer.used()), circuit)
    others = rng.choice(others, min(settings["others"], len(others)), replace=False)
    shapes = [np.setdiff1d(order, circuit)]
    shapes += [np.setdiff1d(circuit, member) for member in circuit[: settings["members"]]]
    shapes += [np.append(circuit, other) for other in others]
    circuits = np.stack([_circuit(nodes, RECOMPUTED, shape) for shape in shapes])
    said = np.stack([tracer.behaviour(way, circuits, tested) for way in (0, 1)])
    found.outside, found.without, found.added = np.split(said, [1, len(shapes) - len(others)], axis=1)


def _patch(found: Traced, tracer: Tracer, settings: Mapping, scores: tuple, gaps: np.ndarray) -> None:
    """The strongest edges and random ones: by attribution and by path patching."""
    rank, tested, rng = found.ranked, found.tested, np.random.default_rng(settings["seed"] + 3)
    share = np.mean([scores[way][rank].sum(axis=0) / gaps[way, rank].sum() for way in (0, 1)], axis=0)
    order = np.argsort(-np.abs(share).ravel(), kind="stable")
    known = order[: np.count_nonzero(share)]
    top, others = known[: settings["edges"]], known[settings["edges"] :]
    others = rng.choice(others, min(settings["random_edges"], len(others)), replace=False)
    found.edges = np.stack(np.unravel_index(np.concatenate([top, others]), share.shape), axis=-1)
    found.strongest = len(top)
    senders, receivers = found.edges.T
    found.attribution = np.stack([scores[way][tested][:, senders, receivers].T for way in (0, 1)])
    patched = np.stack([tracer.patched(way, found.edges, tested) for way in (0, 1)])
    found.effect = found.said[:, :1, tested] - patched


def trace_then(parts: Parts, pairs: Pairs, last: Traced, does: Callable[[Traced], bool], batch: int) -> Traced:
    """What an earlier checkpoint says, and its curves of the empty circuit and of the last one's chosen ones.

    Parameters
    ----------
    parts
        The checkpoint's model, taken apart.
    pairs
        Of the task.
    last
        What the last checkpoint's circuits are.
    does
        Whether a model does the task.
    batch
        Tokens that the model sees at once.

    Returns
    -------
    Traced
        Without curves if there is no circuit, or the checkpoint does not do the task.
    """
    tracer = Tracer(parts, pairs, batch)
    found = Traced(last.source, last.ranked, tracer.said(), last.nodes)
    if not last.chosen or not does(found):
        return found
    every = np.ones(len(last.ranked), bool)
    for kind in KINDS:
        found.orders[kind], circuit = last.orders[kind], last.circuit(kind)
        found.sizes[kind], found.chosen[kind] = np.array([0, len(circuit)]), 1
        circuits = np.stack([_circuit(found.nodes, kind, each) for each in (circuit[:0], circuit)])
        found.curves[kind] = np.stack([tracer.behaviour(way, circuits, every) for way in (0, 1)])
    return found
