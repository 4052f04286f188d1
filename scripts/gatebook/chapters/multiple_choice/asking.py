"""Asking a model: how likely it holds each answer, as it is and without slots of its routing.

The score of an answer is the mean log-probability of its tokens, times the mean number of tokens of the answers of the
question: in nats, and the sum where they are equally long. The log-odds of the right answer are its score minus the
logarithm of the sum of the exponentials of the others.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import transformers

from gatebook.chapters.multiple_choice.questions import ANSWERS, Question
from gatebook.measures.slots import match
from gatebook.routing.patching import CleanRun, weighted
from gatebook.routing.routers import layers_of

ROWS_PER_HEAD = 512
"""So many states are read out at a time."""
CHANGES = ("own", "control")
SLOTS = ("slots", "matched", "own_weight", "control_weight", "mass")


class Outcome(NamedTuple):
    """What a model said to each of some questions.

    scores (item, answer) float64; changed, {change: (item, layer, answer)}, those after a change in one layer: without
    matched slots of the subject's own experts, or of others ("own", "control"); ranks, {mass: (item, layer, rank,
    answer)}: without the choice of that rank of every token, weights "kept" or "renormalised"; alone, whole (item,
    layer, answer): renormalised, nothing removed, and without any expert; lens (item, depth, answer): those read at the
    embedding and after each layer of the model; lenses, {change: (item, layer, depth, answer)}; slots, {name: (item,
    layer)}: how many slots of own experts there are and are matched, their weights and those of the others, summed, and
    the weight of all slots. What was not asked is NaN.
    """

    scores: np.ndarray
    changed: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    alone: np.ndarray
    whole: np.ndarray
    lens: np.ndarray
    lenses: dict[str, np.ndarray]
    slots: dict[str, np.ndarray]


def log_odds(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The log-odds of the right answer of scores (item, ..., answer), right (item,) int: (item, ...) float64."""
    index = right.reshape(-1, *[1] * (scores.ndim - 1))
    own = np.take_along_axis(scores, index, axis=-1)
    others = np.where(np.arange(scores.shape[-1]) == index, -np.inf, scores)
    top = others.max(axis=-1, keepdims=True)
    return (own - top)[..., 0] - np.log(np.exp(others - top).sum(axis=-1))


def correct(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether the right answer has the highest score, 1 / n if it is one of n: (item, ...) float64, NaN as scores."""
    index = right.reshape(-1, *[1] * (scores.ndim - 1))
    best = scores == scores.max(axis=-1, keepdims=True)
    found = np.take_along_axis(best, index, axis=-1)[..., 0] / np.maximum(best.sum(axis=-1), 1)
    return np.where(np.isnan(scores).any(axis=-1), np.nan, found)


def batches(questions: Sequence[Question], places: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """The places of questions in batches of at most so many tokens, padding included; those of like length together."""
    held: list[int] = []
    texts, longest = 0, 0
    for place in sorted(places, key=lambda one: max(map(len, questions[one].texts))):
        longest, texts = max(map(len, questions[place].texts)), texts + len(questions[place].texts)
        if held and texts * longest > tokens_per_batch:
            yield held
            held, texts = [], len(questions[place].texts)
        held.append(place)
    if held:
        yield held


def padded(texts: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Texts as rows, (text, position) int64; what pads one on the right reaches none of its tokens."""
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return torch.from_numpy(ids).to(device)


def loads(
    model: transformers.PreTrainedModel,
    layers: Sequence[int],
    questions: Sequence[Question],
    subjects: Sequence[str],
    count: int,
    tokens_per_batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each subject select each expert, in the texts of questions.

    Parameters
    ----------
    model, layers
        The model with its head, and the numbers of layers.
    questions, subjects
        What is read, and the names of the subjects.
    count
        How many experts there are.
    tokens_per_batch
        That the model sees at once.

    Returns
    -------
    counts : numpy.ndarray
        (subject, layer, expert) int64.
    tokens : numpy.ndarray
        (subject,) int64.
    """
    counts, tokens = np.zeros((len(subjects), len(layers), count), np.int64), np.zeros(len(subjects), np.int64)
    for held in batches(questions, range(len(questions)), tokens_per_batch):
        texts = [(place, text) for place in held for text in questions[place].texts]
        clean = CleanRun(model, padded([text for _, text in texts], model.device), loss=False)
        for index, layer in enumerate(layers):
            chosen = clean.selected[layer].cpu().numpy()
            for row, (place, text) in enumerate(texts):
                subject = subjects.index(questions[place].subject)
                counts[subject, index] += np.bincount(chosen[row, : len(text)].ravel(), minlength=count)
        for place, text in texts:
            tokens[subjects.index(questions[place].subject)] += len(text)
    return counts, tokens


class Batch:
    """Some questions, and how a model reads them."""

    def __init__(self, model: transformers.PreTrainedModel, questions: Sequence[Question]):
        """Run the model as it is."""
        self.questions, texts = questions, [text for question in questions for text in question.texts]
        self.first = np.cumsum([0, *(len(question.texts) for question in questions)])  # row of each question's first
        self.clean = CleanRun(model, padded(texts, model.device), loss=False)

        def joined(of: Callable[[int, Question], np.ndarray]) -> torch.Tensor:
            parts = [of(place, question) for place, question in enumerate(questions)]
            return torch.from_numpy(np.concatenate(parts)).to(model.device)

        self.row = joined(lambda place, question: self.first[place] + question.text)
        self.position = joined(lambda place, question: question.position)
        self.token = joined(lambda place, question: question.token)
        self.slot = joined(lambda place, question: ANSWERS * place + question.answer)

    def read(self, states: torch.Tensor) -> np.ndarray:
        """The scores (item, answer) of what leaves a layer, (read, hidden), by the model's last norm and head."""
        found = []
        for start in range(0, len(states), ROWS_PER_HEAD):
            part = slice(start, start + ROWS_PER_HEAD)
            logits = self.clean.read_out(states[part])
            found.append(logits.log_softmax(dim=-1).gather(-1, self.token[part, None])[:, 0])
        slot, places = self.slot.cpu().numpy(), ANSWERS * len(self.questions)
        total = np.bincount(slot, torch.cat(found).double().cpu().numpy(), places)
        number = np.bincount(slot, minlength=places)
        mean = (total / number).reshape(-1, ANSWERS)
        return mean * number.reshape(-1, ANSWERS).mean(axis=1, keepdims=True)

    def states(self, layer: int, factor: torch.Tensor | None = None) -> torch.Tensor:
        """What leaves a layer and those after it where answers are read, (layer, read, hidden), weights multiplied."""
        change = nullcontext() if factor is None else weighted(self.clean.model, layer, factor)
        return self.clean.states_within(layer, change, self.row, self.position)

    def clean_states(self) -> torch.Tensor:
        """The embedding and what leaves each layer where answers are read, as the model is: (depth, read, hidden)."""
        return torch.stack([states[self.row, self.position] for _, states in sorted(self.clean.inputs.items())])

    def matched(self, layer: int, own: Sequence[np.ndarray], caliper: float) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Factors without slots of own experts and without as many of others, and what is known of the slots.

        Slots are matched within what all texts of a question begin with, where they are the same in all of them, and
        within the rest of each text. own: the experts of each question's subject. Factors are (row, position, rank)
        bool, 0 where a slot is removed; the numbers are those of `SLOTS`, (item,) each.
        """
        selected = self.clean.selected[layer].cpu().numpy()
        weight = self.clean.weights[layer].float().cpu().numpy()
        keep = {change: np.ones(weight.shape, np.float32) for change in CHANGES}
        known = {name: np.zeros(len(self.questions)) for name in SLOTS}
        for place, question in enumerate(self.questions):
            rows = np.arange(self.first[place], self.first[place + 1])
            for parts, spans in self._parts(place, question, rows):
                weights, mine = weight[parts[0]][spans], np.isin(selected[parts[0]][spans], own[place])
                one, other = (np.flatnonzero(each) for each in (mine, ~mine))
                pairs = match(weights.ravel()[one], weights.ravel()[other], caliper)
                one, other = one[pairs[0]], other[pairs[1]]
                for change, slots in zip(CHANGES, (one, other), strict=True):
                    position, rank = np.divmod(slots, weights.shape[1])
                    keep[change][parts[:, None], spans.start + position, rank] = 0
                sums = mine.sum(), len(one), *(weights.ravel()[each].sum() for each in (one, other)), weights.sum()
                for name, value in zip(SLOTS, sums, strict=True):
                    known[name][place] += value
        factors = [torch.from_numpy(keep[change]).to(self.row.device) for change in CHANGES]
        return *factors, known

    def _parts(self, place: int, question: Question, rows: np.ndarray) -> Iterator[tuple[np.ndarray, slice]]:
        """The rows and the positions of each part of a question's texts that is read before an answer is complete."""
        yield rows, slice(0, question.shared)
        for text, row in enumerate(rows):
            last = int(question.position[question.text == text].max()) + 1
            if last > question.shared:
                yield np.array([row]), slice(question.shared, last)

    def without_rank(self, layer: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The weights of a layer, (row, position, rank), and for each rank a factor, 0 where it is a token's choice."""
        weights = self.clean.weights[layer].float()
        order = weights.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return weights, [(order != rank).float() for rank in range(weights.shape[-1])]


def ask(
    model: transformers.PreTrainedModel,
    layers: Sequence[int],
    ranks: int,
    questions: Sequence[Question],
    own: np.ndarray | None,
    closely: Sequence[bool],
    *,
    caliper: float,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda questions: None,
) -> Outcome:
    """What a model says to questions, as it is and with each change in each layer.

    Parameters
    ----------
    model, layers, ranks
        The model with its head, the numbers of the layers to change, and how many experts a token selects.
    questions
        What is asked.
    own
        The experts of each question's subject, (item, layer, rank), or None: nothing is changed.
    closely
        For which questions ranks are removed and the lens is read, (item,).
    caliper
        The setting of the chapter.
    tokens_per_batch
        That the model sees at once.
    advance
        Is called with numbers of questions done.

    Returns
    -------
    Outcome
    """
    items, depths = len(questions), 1 + len(layers_of(model.base_model))

    def empty(*shape: int) -> np.ndarray:
        return np.full((items, *shape, ANSWERS), np.nan)

    layered = len(layers)
    out = Outcome(
        empty(),
        {change: empty(layered) for change in CHANGES},
        {mass: empty(layered, ranks) for mass in ("kept", "renormalised")},
        empty(layered),
        empty(layered),
        empty(depths),
        {change: empty(layered, depths) for change in CHANGES},
        {name: np.full((items, layered), np.nan) for name in SLOTS},
    )
    for close in (False, True):
        places = [place for place in range(items) if bool(closely[place]) == close]
        for held in batches(questions, places, tokens_per_batch):
            batch = Batch(model, [questions[place] for place in held])
            clean = batch.clean_states()
            out.scores[held] = batch.read(clean[-1])
            if close:
                out.lens[held] = np.stack([*(batch.read(each) for each in clean[:-1]), out.scores[held]], axis=1)
            for index, layer in enumerate(layers) if own is not None else ():
                *factors, known = batch.matched(layer, own[held, index], caliper)
                for name, values in known.items():
                    out.slots[name][held, index] = values
                for change, factor in zip(CHANGES, factors, strict=True):
                    states = batch.states(layer, factor)
                    out.changed[change][held, index] = batch.read(states[-1])
                    if close:
                        after = [batch.read(each) for each in states[:-1]]
                        lens = [*out.lens[held, : layer + 1].swapaxes(0, 1), *after, out.changed[change][held, index]]
                        out.lenses[change][held, index] = np.stack(lens, axis=1)
                weights, removed = batch.without_rank(layer)
                out.whole[held, index] = batch.read(batch.states(layer, torch.zeros_like(weights))[-1])
                if close:
                    even = (1 / weights.sum(dim=-1, keepdim=True)).expand_as(weights)
                    out.alone[held, index] = batch.read(batch.states(layer, even)[-1])
                    for rank, factor in enumerate(removed):
                        rest = (weights * factor).sum(dim=-1, keepdim=True).clamp(min=1e-20)
                        out.ranks["kept"][held, index, rank] = batch.read(batch.states(layer, factor)[-1])
                        renormalised = batch.states(layer, factor / rest)
                        out.ranks["renormalised"][held, index, rank] = batch.read(renormalised[-1])
            advance(len(held))
    return out
