"""A model that is run on windows: what the lens reads in them, what experts write, and the lens without an expert.

Two runs: on windows of some clusters translators are fitted, and each expert's tokens and the layer's strongest expert
chosen; on windows of other clusters all is scored. No more logits are in memory at once than those of a few rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

from gatebook.chapters.logit_lens import LAYER, REMOVED, SIDES
from gatebook.chapters.logit_lens.lens import Handed, Lens, Read
from gatebook.chapters.logit_lens.measure import Found, Plan, nothing, unigram_loss
from gatebook.inputs.model_folder import load_config
from gatebook.measures.slots import match
from gatebook.problem import Problem
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.routing.patching import refusal, weighted
from gatebook.routing.routers import find_blocks, skeleton
from gatebook.run import job
from gatebook.study.routed import NONE

MOST_TOKENS = 8192
"""That the model sees at once: so many states of all places are in memory."""
RIDGE = 0.1
"""Of the translators, in mean squares of the states: so much is added to each, so that few tokens do not fit noise."""
ROWS = {"cpu": 256, "cuda": 1024}
"""So many rows have logits at once."""


class Batch(NamedTuple):
    """Padded windows: ids (window, position); rows (row,), the tokens whose next one is known, counted through windows
    and positions; window (row,), which of all windows each is in; following (row,), the next tokens."""

    ids: torch.Tensor
    rows: torch.Tensor
    window: torch.Tensor
    following: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor, lengths: torch.Tensor, numbers: np.ndarray) -> "Batch":
        """That of windows with their lengths (window,) and numbers (window,)."""
        place = torch.arange(ids.shape[1], device=ids.device)
        known = place < lengths[:, None] - 1
        window = torch.from_numpy(np.asarray(numbers)).to(ids.device)[:, None].expand_as(ids)
        return cls(ids, known.flatten().nonzero()[:, 0], window[known], ids.roll(-1, dims=1)[known])


def batches(windows: Sequence[np.ndarray], tokens_per_batch: int, device: torch.device) -> Iterator[Batch]:
    """Windows (position,) of token ids, those of like lengths together, padded on the right."""
    lengths = np.array([len(each) for each in windows], dtype=np.int64)
    for numbers in extraction.batches(lengths, tokens_per_batch):
        ids = torch.zeros(len(numbers), int(lengths[numbers].max()), dtype=torch.int64)
        for row, number in enumerate(numbers):
            ids[row, : lengths[number]] = torch.from_numpy(windows[number].astype(np.int64))
        yield Batch.of(ids.to(device), torch.from_numpy(lengths[numbers]).to(device), numbers)


class Fitted(NamedTuple):
    """What the first run settles.

    translators: by place but the last, what is added to a state after the final norm, of it and a one (hidden + 1,
    hidden); promoted, suppressed (layer, expert, token) int64, and by how much, promoted_logit, suppressed_logit
    float32; direction (layer, expert, hidden) float32: what the difference of their mean logits is read with; permuted:
    the same after experts were dealt out; strongest (layer,): the expert with the largest sum of weights.
    """

    translators: dict[str, torch.Tensor]
    promoted: np.ndarray
    suppressed: np.ndarray
    promoted_logit: np.ndarray
    suppressed_logit: np.ndarray
    direction: torch.Tensor
    permuted: torch.Tensor
    strongest: list[int]


def dealt(selected: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The selected experts (row, rank) of a layer, dealt out to its slots at random."""
    order = torch.from_numpy(rng.permutation(selected.numel())).to(selected.device)
    return selected.flatten()[order].view(selected.shape)


def sums(values: torch.Tensor, place: torch.Tensor, size: int) -> torch.Tensor:
    """Sums of values (n, ...) by their places (n,): (size, ...)."""
    return values.new_zeros(size, *values.shape[1:]).index_add_(0, place, values)


class _Moments:
    """Sums of a state after the final norm, and of its products with itself and with its way to the final one."""

    def __init__(self, hidden: int, device: torch.device):
        self.square = torch.zeros(hidden + 1, hidden + 1, device=device)
        self.cross = torch.zeros(hidden + 1, hidden, device=device)

    def add(self, normed: torch.Tensor, final: torch.Tensor) -> None:
        known = with_one(normed.float())
        self.square += known.T @ known
        self.cross += known.T @ (final.float() - normed.float())

    def solved(self) -> torch.Tensor:
        square, size = self.square.double(), len(self.square)
        ridge = torch.eye(size, dtype=square.dtype, device=square.device) * RIDGE * square.diagonal()[:-1].mean()
        ridge[-1, -1] = 0
        return torch.linalg.solve(square + ridge, self.cross.double()).float()


def with_one(states: torch.Tensor) -> torch.Tensor:
    """States (row, hidden) with a column of ones."""
    return torch.cat([states, states.new_ones(len(states), 1)], dim=1)


def translated(normed: torch.Tensor, translator: torch.Tensor) -> torch.Tensor:
    """The states (row, hidden) after the final norm as a translator (hidden + 1, hidden) reads them."""
    return normed.float() + with_one(normed.float()) @ translator


@torch.inference_mode()
def fit(
    lens: Lens,
    windows: Sequence[np.ndarray],
    *,
    tokens: int,
    seed: int,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda tokens: None,
) -> Fitted:
    """The first run.

    Parameters
    ----------
    lens
        Of the model.
    windows
        Token ids (position,) of each, at least two, of clusters that are not scored.
    tokens
        How many an expert promotes, and suppresses.
    seed
        By which experts are dealt out.
    tokens_per_batch
        That the model sees at once.
    advance
        Is called with numbers of tokens done.

    Returns
    -------
    Fitted
    """
    layers, final, hidden = list(lens.blocks), lens.places[-1], lens.base.config.hidden_size
    experts, rng = lens.experts, np.random.default_rng([seed, 0])
    moments = {place: _Moments(hidden, lens.device) for place in lens.places[:-1]}
    written = torch.zeros(2, len(layers), experts, hidden, device=lens.device)
    slots, weight = (
        torch.zeros(*shape, device=lens.device) for shape in ((2, len(layers), experts), (len(layers), experts))
    )
    for batch in batches(windows, tokens_per_batch, lens.model.device):
        seen = lens.run(batch.ids, batch.rows)
        end = lens.normed(seen.states[final])
        for place, each in moments.items():
            each.add(lens.normed(seen.states[place]), end)
        scale = lens.scale(seen.states[final])
        for index, layer in enumerate(layers):
            handed = seen.handed[layer]
            weight[index] += sums(handed.weights.float().flatten(), handed.selected.flatten(), experts).to(lens.device)
            if lens.unwritten:
                continue
            added = lens.written(layer, handed) * scale[:, None, None]
            for kind, selected in enumerate((handed.selected, dealt(handed.selected, rng))):
                place = selected.flatten().to(lens.device)
                written[kind, index] += sums(added.flatten(0, 1), place, experts)
                slots[kind, index] += torch.bincount(place, minlength=experts)
        advance(len(batch.rows))
    mean = written / slots.clamp(min=1)[..., None]
    apart = mean - written.sum(dim=2, keepdim=True) / slots.sum(dim=2).clamp(min=1)[..., None, None]
    apart *= (slots > 0)[..., None]
    chosen = [[_ends(lens, one, tokens) for one in kind] for kind in apart]
    directions = [torch.stack([_between(lens, each) for each in kind]) for kind in chosen]
    own = [torch.stack([each[part] for each in chosen[0]]).cpu().numpy() for part in range(4)]
    for part, unknown in zip(own, (NONE, NONE, np.nan, np.nan), strict=True):
        part[(slots[0] == 0).cpu().numpy()] = unknown
    translators = {place: each.solved() for place, each in moments.items()}
    return Fitted(translators, *own, *directions, weight.argmax(dim=1).tolist())


def _ends(lens: Lens, vectors: torch.Tensor, tokens: int) -> tuple[torch.Tensor, ...]:
    """The tokens that vectors (expert, hidden) promote and suppress, (expert, token) each, and their logits."""
    parts = []
    for rows in vectors.split(ROWS["cpu"]):
        logits = lens.unembedded(rows)
        most, least = logits.topk(tokens, dim=1), logits.topk(tokens, dim=1, largest=False)
        parts.append((most.indices, least.indices, most.values, least.values))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _between(lens: Lens, chosen: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """With what the mean logit of the promoted tokens minus that of the suppressed ones is read: (expert, hidden)."""
    return lens.directions(chosen[0]).mean(dim=1) - lens.directions(chosen[1]).mean(dim=1)


def compared(logits: torch.Tensor, final: "Final", following: torch.Tensor) -> torch.Tensor:
    """Loss and divergence in nats, and agreement, of logits (row, vocabulary), given the final ones: (3, row)."""
    top = logits.amax(dim=1)
    total = top + (logits - top[:, None]).exp_().sum(dim=1).log()  # logsumexp takes three times as long
    loss = total - logits.gather(1, following[:, None])[:, 0]
    divergence = (total - (final.probability * logits).sum(dim=1) - final.entropy).clamp(min=0)
    agreement = logits.gather(1, final.likeliest[:, None])[:, 0] == top
    return torch.stack([loss, divergence, agreement.float()])


class Final(NamedTuple):
    """What the model predicts in the end: probability (row, vocabulary), entropy and likeliest token (row,)."""

    probability: torch.Tensor
    entropy: torch.Tensor
    likeliest: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> "Final":
        """That of logits (row, vocabulary) float32."""
        log_probability = logits.log_softmax(dim=1)
        probability = log_probability.exp()
        return cls(probability, -(probability * log_probability).sum(dim=1), logits.argmax(dim=1))


@torch.inference_mode()
def score(
    lens: Lens,
    windows: Sequence[np.ndarray],
    fitted: Fitted,
    *,
    seed: int,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda tokens: None,
) -> xr.Dataset:
    """The second run: sums over the tokens of each window.

    Parameters
    ----------
    lens, seed, tokens_per_batch, advance
        As those of `fit`.
    windows
        The same of other clusters.
    fitted
        What the first run settled.

    Returns
    -------
    xarray.Dataset
        `lens`, `translated` (document, place, what): sums of loss and divergence in nats and of agreement. `slots`,
        `attribution`, `promotion`, `of_layer` (kind, document, layer, expert): over the slots of each expert, their
        number, their attribution, and the logits of its own tokens that they write and that all slots of the layer
        write; of the experts as they are and dealt out. A document here is a window.
    """
    layers, experts, number = list(lens.blocks), lens.experts, len(windows)
    rng = np.random.default_rng([seed, 1])
    read = torch.zeros(2, number, len(lens.places), 3, dtype=torch.float64)
    names = ("slots", "attribution", "promotion", "of_layer")
    of_experts = torch.zeros(len(names), 2, number, len(layers), experts, dtype=torch.float64)
    if lens.unwritten:
        of_experts[:] = torch.nan
    for batch in batches(windows, tokens_per_batch, lens.model.device):
        seen = lens.run(batch.ids, batch.rows)
        found, window = _read(lens, seen.states, fitted.translators, batch.following), batch.window.to(lens.device)
        read += torch.stack([sums(each.double(), window, number) for each in found]).cpu()
        if not lens.unwritten:
            scale = lens.scale(seen.states[lens.places[-1]])
            wanted = lens.directions(batch.following) * scale[:, None]
            for index, layer in enumerate(layers):
                found = _written(lens, layer, seen.handed[layer], scale, wanted, fitted, index, rng, batch, number)
                of_experts[:, :, :, index] += found
        advance(len(batch.rows))
    dims, of = ("document", "place", "what"), ("kind", "document", "layer", "expert")
    out = {"lens": (dims, read[0].numpy()), "translated": (dims, read[1].numpy())}
    out |= {name: (of, values.numpy()) for name, values in zip(names, of_experts, strict=True)}
    return xr.Dataset(out, {"place": lens.places, "layer": layers})


def _read(
    lens: Lens, states: dict[str, torch.Tensor], translators: dict[str, torch.Tensor], following: torch.Tensor
) -> torch.Tensor:
    """What `compared` says of every place, plainly and translated: (2, row, place, 3)."""
    following, parts = following.to(lens.device), []
    for rows in torch.arange(len(following), device=lens.device).split(ROWS[lens.device.type]):
        normed = {place: lens.normed(states[place][rows.to(states[place].device)]) for place in lens.places}
        final = Final.of(lens.logits(normed[lens.places[-1]]))
        plain, other = [], []
        for place, each in normed.items():
            plain.append(compared(lens.logits(each), final, following[rows]))
            if place in translators:
                each = lens.logits(translated(each, translators[place]))
                other.append(compared(each, final, following[rows]))
            else:
                other.append(plain[-1])
        parts.append(torch.stack([torch.stack(plain), torch.stack(other)]).permute(0, 3, 1, 2))
    return torch.cat(parts, dim=1)


def _written(
    lens: Lens,
    layer: int,
    handed: Handed,
    scale: torch.Tensor,
    wanted: torch.Tensor,
    fitted: Fitted,
    index: int,
    rng: np.random.Generator,
    batch: Batch,
    number: int,
) -> torch.Tensor:
    """What `score` says of the experts of a layer, of one batch: (4, kind, window, expert) float64."""
    added, window = lens.written(layer, handed), batch.window.to(lens.device)
    attribution = torch.einsum("trh,th->tr", added, wanted)
    added *= scale[:, None, None]
    whole = sums(added.sum(dim=1), window, number)
    experts, found = fitted.direction.shape[1], []
    for selected, direction in ((handed.selected, fitted.direction), (dealt(handed.selected, rng), fitted.permuted)):
        selected = selected.to(lens.device)
        own = torch.einsum("trh,trh->tr", added, direction[index][selected])
        cell = (window[:, None] * experts + selected).flatten()
        parts = (torch.ones_like(own), attribution, own)
        each = [sums(part.flatten(), cell, number * experts).view(number, experts) for part in parts]
        found.append(torch.stack([*each, whole @ direction[index].T]))
    return torch.stack(found, dim=1).double().cpu()


@torch.inference_mode()
def remove(
    lens: Lens,
    windows: Sequence[np.ndarray],
    strongest: Sequence[int],
    *,
    caliper: float,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda tokens: None,
) -> xr.Dataset:
    """The lens of runs in which slots of the strongest expert of a layer, or of others, have no weight.

    Parameters
    ----------
    lens, tokens_per_batch, advance
        As those of `fit`.
    windows
        Some that are scored.
    strongest
        The expert of each layer with experts.
    caliper
        See `match`.

    Returns
    -------
    xarray.Dataset
        `change` (removed, side, document, layer, place): sums of lens loss minus that of the model as it is, in nats,
        over the tokens where a slot is removed and over the others; 0 before the layer. `tokens` (removed, side,
        document, layer): their number; `slots`, `weight` (removed, document, layer): of what is removed. A document is
        a window.
    """
    layers, number = list(lens.blocks), len(windows)
    change = np.zeros((len(REMOVED), len(SIDES), number, len(layers), len(lens.places)))
    tokens, (slots, weight) = np.zeros(change.shape[:-1]), np.zeros((2, len(REMOVED), number, len(layers)))
    for batch in batches(windows, tokens_per_batch, lens.model.device):
        window, seen = batch.window.cpu().numpy(), lens.run(batch.ids, batch.rows)
        before = {place: _losses(lens, seen.states[place], batch.following) for place in lens.places}
        for index, layer in enumerate(layers):
            handed = seen.handed[layer]
            for run, taken in enumerate(removed_slots(handed, strongest[index], window, caliper)):
                after = _without(lens, batch, layer, taken, seen).states
                hit = taken.any(dim=1).cpu().numpy()
                for side, among in enumerate((hit, ~hit)):
                    np.add.at(tokens, (run, side, window[among], index), 1)
                for place in range(lens.places.index(LAYER.format(layer)), len(lens.places)):
                    name = lens.places[place]
                    moved = (after[name] != seen.states[name]).any(dim=1)  # all others lose nothing
                    apart = _losses(lens, after[name][moved], batch.following[moved.to(batch.following.device)])
                    apart = (apart - before[name][moved.to(lens.device)]).cpu().numpy()
                    rows = moved.cpu().numpy()
                    np.add.at(change, (run, 1 - hit[rows], window[rows], index, place), apart)
                np.add.at(slots, (run, window, index), taken.sum(dim=1).cpu().numpy())
                np.add.at(weight, (run, window, index), (taken * handed.weights.float()).sum(dim=1).cpu().numpy())
        advance(len(batch.rows))
    side, of = ("removed", "side", "document", "layer"), ("removed", "document", "layer")
    out = {"change": ((*side, "place"), change), "tokens": (side, tokens), "slots": (of, slots), "weight": (of, weight)}
    return xr.Dataset(out, {"removed": list(REMOVED), "side": list(SIDES), "place": lens.places, "layer": layers})


def removed_slots(handed: Handed, expert: int, window: np.ndarray, caliper: float) -> list[torch.Tensor]:
    """Which slots (row, rank) bool each run removes: all of an expert, those with a match, and their matches.

    window (row,): which window each row is in; matches are in the same one.
    """
    own, weights = (handed.selected == expert).cpu().numpy(), handed.weights.float().cpu().numpy()
    matched, control = np.zeros_like(own), np.zeros_like(own)
    for one in np.unique(window):
        rows = np.flatnonzero(window == one)
        mine, others = (np.argwhere(each[rows]) for each in (own, ~own))
        pairs = match(*(weights[rows[each[:, 0]], each[:, 1]] for each in (mine, others)), caliper)
        for mask, slots, chosen in zip((matched, control), (mine, others), pairs, strict=True):
            mask[rows[slots[chosen, 0]], slots[chosen, 1]] = True
    return [torch.from_numpy(mask).to(handed.selected.device) for mask in (own, matched, control)]


def _without(lens: Lens, batch: Batch, layer: int, taken: torch.Tensor, seen: Read) -> Read:
    """A run, that differs from what was `seen` in that the slots `taken` (row, rank) of a layer have no weight."""
    factor = torch.ones(batch.ids.numel(), taken.shape[1], device=taken.device)
    factor[batch.rows.to(taken.device)] = (~taken).float()
    with weighted(lens.model, layer, factor.view(*batch.ids.shape, -1)), lens.resumed(layer, seen.returned):
        return lens.run(batch.ids, batch.rows)


def _losses(lens: Lens, states: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """The lens loss (row,) float32, in nats, of states (row, hidden)."""
    rows = ROWS[lens.device.type]
    parts = zip(states.split(rows), following.to(lens.device).split(rows), strict=True)
    found = [
        nn.functional.cross_entropy(lens.logits(lens.normed(part)), wanted, reduction="none") for part, wanted in parts
    ]
    return torch.cat([torch.zeros(0, device=lens.device), *found])


@torch.inference_mode()
def read_weights(lens: Lens, fitted: Fitted, *, tokens: int, directions: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that the leading directions of experts' outputs read, and how many of each expert's are among them.

    Parameters
    ----------
    lens, tokens
        As those of `fit`.
    fitted
        What the first run settled.
    directions
        How many of each expert.

    Returns
    -------
    read : numpy.ndarray
        The tokens at both ends of each direction: (layer, expert, direction, end, token) int64.
    shared : numpy.ndarray
        |A ∩ B| / |A| of A of one expert and B of another: (layer, expert, other) float64; NaN where A is not known.
    """
    read, shared = [], []
    for index, layer in enumerate(lens.blocks):
        of_layer = []
        for each in lens.leading(layer, directions):
            logits = lens.unembedded(each)
            ends = (logits.topk(tokens, dim=1, largest=largest).indices for largest in (True, False))
            of_layer.append(torch.stack(list(ends), dim=1).cpu().numpy())
        read.append(np.stack(of_layer))
        chosen = np.concatenate([fitted.promoted[index], fitted.suppressed[index]], axis=1)
        shared.append([[np.isin(mine, named).mean() for named in of_layer] for mine in chosen])
    unknown = fitted.promoted[..., 0] == NONE
    return np.stack(read), np.where(unknown[..., None], np.nan, np.array(shared))


def study(
    tokens: xr.Dataset,
    planned: Plan,
    settings: Mapping,
    folder: str,
    loading: Mapping,
    tokens_per_batch: Mapping[str, int | str],
) -> tuple[Found, dict[str, str]]:
    """What is found of a study.

    Parameters
    ----------
    tokens, planned
        Those of `routed.read`, and which windows are read.
    settings
        Of the chapter.
    folder, loading
        Of the model, and how it is loaded (`models.load`).
    tokens_per_batch
        By kind of device, as in the config.

    Returns
    -------
    Found
    reasons : dict of str to str
        `not_read`: why nothing is found: the model has no head or no final norm that is known, or no text is left to
        fit on; `not_written`: why nothing is found of what experts write; "" else.
    """
    config = load_config(folder, loading["trust_remote_code"])
    reason = refusal(config) or ""
    if not planned.fitted:
        reason = "every dataset has but one cluster, and none is left to fit on"
    if not reason:
        model = models.load(folder, head=True, **loading)
        try:
            lens = Lens(model)
        except Problem as problem:
            reason = str(problem)
    shown = {name: settings[name] for name in ("tokens", "directions")}
    if reason:
        rule, base = routing_rule(config), skeleton(config)
        return nothing(sorted(find_blocks(base)), planned, experts=rule.experts, **shown), {
            "not_read": reason,
            "not_written": "",
        }
    longest = max(map(len, (*planned.fitted, *planned.scored)))
    batch = extraction.batch_tokens(tokens_per_batch[lens.model.device.type], lens.base.config, lens.device, longest)
    reasons = {"not_read": "", "not_written": lens.unwritten}
    return found(lens, tokens, planned, settings, min(batch, MOST_TOKENS)), reasons


def found(lens: Lens, tokens: xr.Dataset, planned: Plan, settings: Mapping, tokens_per_batch: int) -> Found:
    """What is found of a study with the lens of a model.

    Parameters
    ----------
    lens
        Of the model.
    tokens, planned, settings
        As those of `study`.
    tokens_per_batch
        That the model sees at once.

    Returns
    -------
    Found
    """
    ids = tokens["token_id"].sel(kind="input").values
    fitted, scored = ([ids[span] for span in spans] for spans in (planned.fitted, planned.scored))
    without = [text for text, chosen in zip(scored, planned.removal, strict=True) if chosen]
    total = sum(len(text) - 1 for text in (*fitted, *scored, *without))
    seed, shown = settings["seed"], {name: settings[name] for name in ("tokens", "directions")}
    with job.progress(total=total, unit=" tokens", description="lens") as bar:
        options = {"tokens_per_batch": tokens_per_batch, "advance": bar.update}
        known = fit(lens, fitted, tokens=settings["tokens"], seed=seed, **options)
        sums = score(lens, scored, known, seed=seed, **options)
        removed = remove(lens, without, known.strongest, caliper=settings["caliper"], **options)
    read, shared = read_weights(lens, known, **shown)
    of_experts = known.promoted, known.suppressed, known.promoted_logit, known.suppressed_logit
    unigram = unigram_loss(tokens, planned, lens.words)
    return Found(sums, removed, unigram, *of_experts, read, shared, known.strongest)
