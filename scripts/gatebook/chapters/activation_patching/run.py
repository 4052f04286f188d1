"""Activation patching: what a model says to pairs of prompts, as it is and with parts of one prompt in the other.

Everything is m, the logit of the right answer minus that of the wrong one at the end of a window (`routing.nodes`).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers

from gatebook.chapters.activation_patching import BASE, CONTROLS, EXCHANGED, GROUPS, INTEGRATED, OTHER_RUN
from gatebook.measures import recovered
from gatebook.routing.nodes import Gradients, PairRun, experts_replaced, handed
from gatebook.study.pairs import CLEAN, CORRUPT, Pairs

PADDED = -1


@dataclass
class Outcome:
    """What a model says, float64; W windows are the clean prompts of all pairs and then the corrupt ones.

    clean (window,); positions (layer, group, window); experts (layer, expert, window); attention (layer, window), NaN
    in layers without; exchanged, by name (layer or all, window), the last of them all layers at once; attribution and
    attention_attribution, by method, as experts and attention, but changes of m; differ (layer, pair): the share of
    tokens from the first changed one on that select another set of experts in the two prompts; chosen (window,):
    the experts that matter most in one half of the sources, exchanged in the other half; random (set, window): as many
    others of the same layers; chosen_experts: by half, [(layer, expert)].
    """

    clean: np.ndarray
    positions: np.ndarray
    experts: np.ndarray
    attention: np.ndarray
    exchanged: dict[str, np.ndarray]
    attribution: dict[str, np.ndarray]
    attention_attribution: dict[str, np.ndarray]
    differ: np.ndarray
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0))
    random: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    chosen_experts: list[list[tuple[int, int]]] = field(default_factory=list)


def parts(pairs: Pairs, tokens_per_batch: int) -> list[Pairs]:
    """Pairs in parts that are run at once: of few tokens, but of two pairs at least."""
    size = max(2, tokens_per_batch // (2 * int(pairs.lengths.max())))
    number = max(1, min(-(-len(pairs) // size), len(pairs) // 2))
    return [pairs[rows] for rows in np.array_split(np.arange(len(pairs)), number)]


def run_of(model: transformers.PreTrainedModel, pairs: Pairs) -> PairRun:
    """A model on pairs."""
    longest = int(pairs.lengths.max())
    given = pairs.ids[..., :longest], pairs.lengths, pairs.right, pairs.wrong
    return PairRun(model, *(torch.from_numpy(np.ascontiguousarray(each)) for each in given))


def answers(model: transformers.PreTrainedModel, pairs: Pairs, tokens_per_batch: int) -> np.ndarray:
    """m of all windows as they are, (window,): what the gate is about."""
    return _joined([run_of(model, part).differences() for part in parts(pairs, tokens_per_batch)])


def study(
    model: transformers.PreTrainedModel,
    pairs: Pairs,
    halves: np.ndarray,
    *,
    steps: int,
    scrambles: int,
    top: int,
    random_sets: int,
    seed: int,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda rows: None,
) -> Outcome:
    """All patches of a task.

    Parameters
    ----------
    model
        With a head, in evaluation mode.
    pairs
        Of the task.
    halves
        Which half each pair is in, 0 or 1, (pair,).
    steps, scrambles, top, random_sets, seed
        Settings of the chapter.
    tokens_per_batch
        At most so many tokens run at once.
    advance
        Called with numbers of windows done.

    Returns
    -------
    Outcome
    """
    generator = torch.Generator().manual_seed(seed)
    each = parts(pairs, tokens_per_batch)
    found = [_of_part(run_of(model, part), part, steps, scrambles, generator, advance) for part in each]
    whole = Outcome(
        *(_joined([getattr(one, name) for one in found]) for name in ("clean", "positions", "experts", "attention")),
        *(
            {name: _joined([getattr(one, kind)[name] for one in found]) for name in getattr(found[0], kind)}
            for kind in ("exchanged", "attribution", "attention_attribution")
        ),
        np.concatenate([one.differ for one in found], axis=-1),
    )
    _choose(whole, model, each, halves, top, random_sets, seed)
    return whole


def _joined(found: Sequence) -> np.ndarray:
    """Values (..., window) of parts as one: the clean prompts of all parts first."""
    split = [np.split(np.asarray(one, np.float64), 2, axis=-1) for one in found]
    return np.concatenate([one[prompt] for prompt in (CLEAN, CORRUPT) for one in split], axis=-1)


def _of_part(
    run: PairRun,
    pairs: Pairs,
    steps: int,
    scrambles: int,
    generator: torch.Generator,
    advance: Callable[[int], object],
) -> Outcome:
    layers, clean = run.layers, run.differences()
    places = [torch.from_numpy(each).to(clean.device) for each in position_groups(pairs)]
    attribution, of_attention = _attributed(run, steps)
    nothing = torch.full_like(clean, torch.nan)
    return Outcome(
        clean=clean.cpu().numpy(),
        positions=_stacked([[run.of_positions(layer, place) for place in places] for layer in layers]),
        experts=_stacked([run.of_experts(layer, advance).T for layer in layers]),
        attention=_stacked([run.of_attention(layer) if layer in run.attention else nothing for layer in layers]),
        exchanged=_exchanged(run, pairs, scrambles, generator),
        attribution=attribution,
        attention_attribution=of_attention,
        differ=_differ(run, pairs),
    )


def _stacked(found: Sequence) -> np.ndarray:
    """Nested lists of tensors as float64 on the CPU."""
    if isinstance(found, torch.Tensor):
        return found.double().cpu().numpy()
    return np.stack([_stacked(each) for each in found])


def position_groups(pairs: Pairs) -> list[np.ndarray]:
    """Which positions are of each of `GROUPS`, (window, position) bool, of both prompts alike.

    The last token is of no other group; tokens before the first one that differs are of none.
    """
    longest = int(pairs.lengths.max())
    ids, place = pairs.ids[..., :longest], np.arange(longest)
    differs, last = ids[CLEAN] != ids[CORRUPT], place == pairs.lengths[:, None] - 1
    changed = differs & ~last
    between = ~differs & ~last & (place > differs.argmax(axis=1)[:, None]) & (place < pairs.lengths[:, None])
    known = dict(zip(GROUPS, (changed, between, last), strict=True))
    return [np.tile(known[name], (2, 1)) for name in GROUPS]


# ---------------------------------------------------------------- routing against values


def by_weight(selected: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, those with the most weight first: ranks that mean the same in both prompts."""
    order = weights.argsort(dim=-1, descending=True, stable=True)
    return selected.gather(-1, order), weights.gather(-1, order)


def aligned(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """For each window one of another pair with the same answer, nearly as long, and the positions that match its own.

    Returns
    -------
    window : numpy.ndarray
        (window,) int64, of the same kind of prompt.
    position : numpy.ndarray
        (window, position) int64, counted from the end, `PADDED` where the other one has none.
    """
    order = np.argsort(pairs.lengths, kind="stable")
    other = np.empty(len(pairs), np.int64)
    other[order] = np.roll(order, -1)
    position = np.arange(int(pairs.lengths.max())) + (pairs.lengths[other] - pairs.lengths)[:, None]
    position[(position < 0) | (position >= pairs.lengths[other][:, None])] = PADDED
    return np.concatenate([other, other + len(pairs)]), np.tile(position, (2, 1))


def _routing_of_another(run: PairRun, pairs: Pairs, layer: int) -> dict[str, torch.Tensor]:
    """The experts and weights of another prompt with the same answer, its own where that one has no token."""
    window, position = (torch.from_numpy(each).to(run.ends.device) for each in aligned(pairs))
    known, at = (position != PADDED)[..., None], position.clamp(min=0)
    found = {}
    for name, values in {"selected": run.selected[layer], "weights": run.weights[layer]}.items():
        found[name] = torch.where(known, values[window[:, None], at], values)
    return found


def _handed_at(run: PairRun, pairs: Pairs, layer: int, generator: torch.Generator) -> dict[str, dict]:
    """What the experts of a layer are handed instead, by what is exchanged."""
    own, partner = (run.selected[layer], run.weights[layer]), run.partner
    states = run.states(layer)[partner]
    (ids, weights), (other_ids, other_weights) = by_weight(*own), by_weight(own[0][partner], own[1][partner])
    noise = torch.rand(*own[0].shape[:2], run.experts, generator=generator).to(own[0].device)
    known = {
        "routing": {"selected": own[0][partner], "weights": own[1][partner]},
        "experts alone": {"selected": other_ids, "weights": weights},
        "weights alone": {"selected": ids, "weights": other_weights},
        "inputs": {"states": states, "selected": own[0], "weights": own[1]},
        "routing and inputs": {"states": states, "selected": own[0][partner], "weights": own[1][partner]},
        "another prompt": _routing_of_another(run, pairs, layer),
        "random experts": {"selected": noise.argsort(dim=-1)[..., : own[0].shape[-1]], "weights": own[1]},
    }
    return {name: known[name] for name in (*EXCHANGED, *CONTROLS)}


def _exchanged(run: PairRun, pairs: Pairs, scrambles: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """m with what experts are handed exchanged, by what, in each layer and in all, (layer or all, window)."""
    found: dict[str, list[np.ndarray]] = {}
    for draw in range(scrambles):
        given = {layer: _handed_at(run, pairs, layer, generator) for layer in run.layers}
        for name in (*EXCHANGED, *CONTROLS) if draw == 0 else CONTROLS[-1:]:  # others hold nothing that is drawn
            rows = [_with(run, {layer: given[layer][name]}) for layer in run.layers]
            rows.append(_with(run, {layer: given[layer][name] for layer in run.layers}))
            found.setdefault(name, []).append(_stacked(rows))
    return {name: np.mean(each, axis=0) for name, each in found.items()}


def _with(run: PairRun, given: dict[int, dict]) -> torch.Tensor:
    """m with other things handed to the experts of some layers: (window,)."""
    with ExitStack() as stack:
        for layer, each in given.items():
            stack.enter_context(handed(run.model, layer, **each))
        return run.differences(min(given))


def _differ(run: PairRun, pairs: Pairs) -> np.ndarray:
    """See `Outcome.differ`."""
    first = torch.from_numpy(pairs.labels["changed"]).to(run.ends.device)
    place = torch.arange(run.token_ids.shape[1], device=run.ends.device)
    after = (place >= first[:, None]) & run.inside[: len(pairs)]
    found = []
    for layer in run.layers:
        sets = run.selected[layer].sort(dim=-1).values
        other = (sets[: len(pairs)] != sets[len(pairs) :]).any(dim=-1) & after
        found.append(other.sum(dim=-1) / after.sum(dim=-1))
    return _stacked(found)


# ---------------------------------------------------------------- attribution


def _attributed(run: PairRun, steps: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Changes of m by each node's gradient times its change of value, by method: of experts, of attention."""
    base = run.gradients()
    other = Gradients(*({layer: each[run.partner] for layer, each in kind.items()} for kind in base))
    between = [run.gradients((step + 0.5) / steps) for step in range(steps)]
    mean = Gradients(*({n: sum(each[k][n] for each in between) / steps for n in base[k]} for k in range(len(base))))
    experts, attention = {}, {}
    for name, gradients in {BASE: base, OTHER_RUN: other, INTEGRATED: mean}.items():
        of_experts, of_attention = run.attributed(gradients)
        nothing = run.ends.new_zeros(run.windows, dtype=torch.float32)
        experts[name] = _stacked([of_experts[layer].T for layer in run.layers])
        attention[name] = _stacked([of_attention.get(layer, nothing) for layer in run.layers])
    return experts, attention


# ---------------------------------------------------------------- chosen in one half, tried in the other


def _choose(
    whole: Outcome,
    model: transformers.PreTrainedModel,
    each: list[Pairs],
    halves: np.ndarray,
    top: int,
    random_sets: int,
    seed: int,
) -> None:
    """Fill in `chosen`, `random` and `chosen_experts`: of each half those that matter most in the other one."""
    rng, layers, experts = np.random.default_rng(seed), whole.experts.shape[0], whole.experts.shape[1]
    moved = recovered.shares(whole.experts, whole.clean)  # (pair, direction, layer, expert)
    sets = []
    for half in (0, 1):
        mean = moved[halves != half].mean(axis=(0, 1))
        best = np.argsort(-mean.ravel(), kind="stable")[:top]
        whole.chosen_experts.append([(int(one) // experts, int(one) % experts) for one in best])
        count = np.bincount(best // experts, minlength=layers)
        others = [
            [(layer, int(one)) for layer in range(layers) for one in rng.permutation(experts)[: count[layer]]]
            for _ in range(random_sets)
        ]
        sets.append([whole.chosen_experts[-1], *others])
    found, start = [], 0
    for pairs in each:
        run, mine = run_of(model, pairs), halves[start : start + len(pairs)]
        start += len(pairs)
        of_half = torch.from_numpy(np.tile(mine, 2)).to(run.ends.device)
        found.append(
            _stacked([_without(run, [one[number] for one in sets], of_half) for number in range(len(sets[0]))])
        )
    joined = _joined(found)
    whole.chosen, whole.random = joined[0], joined[1:]


def _without(run: PairRun, sets: Sequence[Sequence[tuple[int, int]]], half: torch.Tensor) -> torch.Tensor:
    """m with the partner's values of a set of experts, another one in each half: (window,).

    sets: by half, places of layers among those with experts, and numbers of experts; half: of each window.
    """
    taken = torch.zeros(len(sets), len(run.layers), run.experts, dtype=torch.bool, device=run.ends.device)
    for number, each in enumerate(sets):
        for layer, expert in each:
            taken[number, layer, expert] = True
    with ExitStack() as stack:
        for place, layer in enumerate(run.layers):
            mine = taken[half, place][:, None]
            if mine.any():
                value = run.contributed(layer, run.partner, mine)
                stack.enter_context(experts_replaced(run.model, layer, mine, value))
        return run.differences()
