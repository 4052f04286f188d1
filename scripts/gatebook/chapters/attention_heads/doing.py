"""What heads do for a task: their outputs, put from one prompt of a pair into the run of the other; what they write."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import transformers
import xarray as xr

from gatebook.chapters.attention_heads import DIRECTIONS, NAMED
from gatebook.chapters.attention_heads.direct import Direct
from gatebook.measures import recovered, uncertainty
from gatebook.routing.heads import Attention, Seen, plainly, replaced, watching
from gatebook.routing.routers import layers_of
from gatebook.study.pairs import CLEAN, CORRUPT, NOWHERE, Pairs


@dataclass(frozen=True)
class Done:
    """What heads do for the pairs of a task; NaN where it is not known.

    clean, corrupt: logit of right minus wrong (pair,); patched: the same with the output of one head from the other
    prompt, (direction, pair, layer, head); direct, corrupted: what heads write for the right answer in the clean
    prompt, and for the same in the corrupt one, (pair, layer, head); attention: of the last token to that of each role,
    (pair, role, layer, head); inhibition (pair, layer, head); roles: their names; unknown: why direct effects are not
    known.
    """

    clean: np.ndarray
    corrupt: np.ndarray
    patched: np.ndarray
    direct: np.ndarray
    corrupted: np.ndarray
    attention: np.ndarray
    inhibition: np.ndarray
    source: np.ndarray
    roles: list[str]
    unknown: str


class Prompts:
    """The pairs of a batch, and both of their runs.

    last: the position of the last token, (pair,); of both runs: seen, what heads do; states, what the last layer handed
    on at the last token; differences (pair,), the logit of the right answer minus that of the wrong one.
    """

    def __init__(self, model: transformers.PreTrainedModel, attentions: Mapping[int, Attention], pairs: Pairs):
        """Run the model, computed plainly, on the prompts of pairs."""
        self.model, self.attentions, self.pairs = model, attentions, pairs
        self.ids = torch.from_numpy(pairs.ids).to(model.device)
        self.last = torch.from_numpy(pairs.lengths - 1).to(model.device)
        self.right, self.wrong = (torch.from_numpy(each).to(model.device) for each in (pairs.right, pairs.wrong))
        self.rows = torch.arange(len(pairs), device=model.device)
        self.seen: list[Seen] = []
        self.states: list[torch.Tensor] = []
        self.differences: list[torch.Tensor] = []
        for prompt in (CLEAN, CORRUPT):
            with watching(attentions) as seen, self._last_states() as states:
                self.differences.append(self.difference(prompt))
            self.states += states
            self.seen.append(seen)

    @contextmanager
    def _last_states(self) -> Iterator[list[torch.Tensor]]:
        found: list[torch.Tensor] = []

        def keep(module, given, output):
            states = output[0] if isinstance(output, tuple) else output
            found.append(states[self.rows.to(states.device), self.last.to(states.device)])

        handle = layers_of(self.model.base_model)[-1].register_forward_hook(keep)
        try:
            yield found
        finally:
            handle.remove()

    def difference(self, prompt: int) -> torch.Tensor:
        """The logit of the right answer minus that of the wrong one after the prompts, (pair,) float32."""
        logits = self.model(input_ids=self.ids[prompt], use_cache=False).logits
        ends = logits[self.rows, self.last].float()
        return ends[self.rows, self.right] - ends[self.rows, self.wrong]

    def patched(self, prompt: int, layer: int, head: int) -> torch.Tensor:
        """The same, if one head returns what it does in the other prompt: (pair,)."""
        other = self.seen[1 - prompt].outputs
        with replaced(self.attentions, other, {layer: self._one(layer, head)}):
            return self.difference(prompt)

    def _one(self, layer: int, head: int) -> torch.Tensor:
        return torch.arange(self.attentions[layer].heads)[None, None] == head

    def attention(self, seen: Seen, layer: int, role: str) -> torch.Tensor:
        """Attention of the last token to that of a role, (pair, head) float32; NaN where a pair has none."""
        pattern = seen.patterns[layer]
        place = torch.from_numpy(self.pairs.labels[role]).to(pattern.device)
        found = pattern[self.rows.to(pattern.device), :, self.last.to(pattern.device), place.clamp(min=0)].float()
        return found.masked_fill((place == NOWHERE)[:, None], torch.nan)

    def turned(self, movers: list[tuple[int, int]], layer: int, head: int) -> torch.Tensor:
        """By how much attention of movers to IO - S1 falls if a head's last output is that of the corrupt run: (pair,).

        Only what it writes changes, and what experts make of that: all other heads return what they do in the clean
        run, so that the change reaches the queries of movers by no other head.
        """
        clean, corrupt = (one.outputs for one in self.seen)
        outputs = {each: clean[each].clone() for each in self.attentions}
        rows, last = (each.to(outputs[layer].device) for each in (self.rows, self.last))
        outputs[layer][rows, last, head] = corrupt[layer][rows, last, head]
        every = {each: torch.ones(1, 1, 1, dtype=torch.bool) for each in self.attentions}
        with ExitStack() as stack:
            seen = stack.enter_context(watching(self.attentions))
            stack.enter_context(replaced(self.attentions, outputs, every))
            self.model.base_model(input_ids=self.ids[CLEAN], use_cache=False)
        return self._looks(self.seen[CLEAN], movers) - self._looks(seen, movers)

    def _looks(self, seen: Seen, movers: list[tuple[int, int]]) -> torch.Tensor:
        found = [
            (self.attention(seen, layer, "IO") - self.attention(seen, layer, "S1"))[:, head].cpu()
            for layer, head in movers
        ]
        return torch.stack(found).mean(dim=0)


def chosen(pairs: Pairs, most: int, seed: int) -> np.ndarray:
    """At most so many of the pairs, at random, in their order: numbers (pair,)."""
    if len(pairs) <= most:
        return np.arange(len(pairs))
    return np.sort(np.random.default_rng(seed).choice(len(pairs), most, replace=False))


@torch.inference_mode()
def gate(
    model: transformers.PreTrainedModel,
    task: str,
    pairs: Pairs,
    tokens_per_batch: int,
    *,
    resamples: int,
    seed: int,
    confidence: float,
) -> str:
    """Why a model does not do a task, in a clause with the shares and their intervals; "" if it does.

    It does if it prefers the right answer in more than half of the clean prompts, and the other one in more than half
    of the corrupt ones, by the lower ends of intervals over sources.

    Parameters
    ----------
    model
        With a head.
    task, pairs
        Name of the task, and its pairs.
    tokens_per_batch
        That the model sees at once.
    resamples, seed, confidence
        Of the intervals.

    Returns
    -------
    str
    """
    parts = [Prompts(model, {}, pairs[part]).differences for part in batches(pairs, tokens_per_batch)]
    clean = np.concatenate([torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True)])
    resampling = recovered.resampled(pairs.source, resamples, seed, task)
    draws = recovered.ratio(resampling, np.stack(recovered.answered(clean), axis=1), np.ones(len(pairs)))
    found = uncertainty.interval(xr.DataArray(draws, dims=("draw", "share")), confidence, (0, 1)).values
    if recovered.does(*found):
        return ""
    right, flips = (f"{one:.2f} [{low:.2f}, {high:.2f}]" for one, low, high in found)
    return (
        f"right in {right} of the clean prompts, the other answer in {flips} of the corrupt ones; chance is "
        f"{recovered.CHANCE}"
    )


def batches(pairs: Pairs, tokens_per_batch: int) -> list[np.ndarray]:
    """The pairs in parts of about so many tokens, in order: numbers (pair,) each."""
    size = max(1, tokens_per_batch // pairs.ids.shape[2])
    return np.split(np.arange(len(pairs)), range(size, len(pairs), size))


@torch.inference_mode()
def study(
    model: transformers.PreTrainedModel,
    attentions: Mapping[int, Attention],
    pairs: Pairs,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda pairs: None,
) -> Done:
    """What heads do for pairs.

    Parameters
    ----------
    model, attentions
        With a head, and what `find_attentions` found of it.
    pairs
        Of a task.
    tokens_per_batch
        That the model sees at once.
    advance
        Called with numbers of pairs done.

    Returns
    -------
    Done
    """
    heads = [(layer, head) for layer, one in attentions.items() for head in range(one.heads)]
    shape = len(attentions), max(one.heads for one in attentions.values())
    roles = [role for role in pairs.labels if role != "end"]
    count, index = len(pairs), {layer: number for number, layer in enumerate(attentions)}
    direct = Direct(model, attentions)
    clean, corrupt = np.zeros((2, count))
    patched = np.full((len(DIRECTIONS), count, *shape), np.nan)
    written = np.full((2, count, *shape), np.nan)
    attention = np.full((count, len(roles), *shape), np.nan)
    runs = []
    with plainly(model):
        for part in batches(pairs, tokens_per_batch):
            prompts = Prompts(model, attentions, pairs[part])
            runs.append((part, prompts))
            clean[part], corrupt[part] = (each.cpu().numpy() for each in prompts.differences)
            for number, prompt in enumerate((CORRUPT, CLEAN)):
                for layer, head in heads:
                    patched[number, part, index[layer], head] = prompts.patched(prompt, layer, head).cpu().numpy()
            for prompt in (CLEAN, CORRUPT):
                ends = {layer: seen[prompts.rows, prompts.last] for layer, seen in prompts.seen[prompt].outputs.items()}
                made = direct.logits(ends, prompts.states[prompt], prompts.right, prompts.wrong)
                written[prompt, part] = made.numpy()
            for number, role in enumerate(roles):
                for layer, one in attentions.items():
                    found = prompts.attention(prompts.seen[CLEAN], layer, role).cpu().numpy()
                    attention[part, number, index[layer], : one.heads] = found
            advance(len(part))
        inhibition = np.full((count, *shape), np.nan)
        if set(NAMED) <= set(roles) and not direct.unknown:
            for half, others in halves(pairs.source):
                movers = moving((written[0] - written[1])[half], attention[half], roles)
                movers = [(list(attentions)[layer], head) for layer, head in movers]
                for part, prompts in runs if movers else ():
                    mine = others[part]
                    for layer, head in heads:
                        if layer < max(each for each, _ in movers) and mine.any():
                            turned = prompts.turned(movers, layer, head).numpy()
                            inhibition[part[mine], index[layer], head] = turned[mine]
    return Done(clean, corrupt, patched, *written, attention, inhibition, pairs.source, roles, direct.unknown)


def halves(source: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both halves of the sources with the other one each, as which pairs are in them: (pair,) bool."""
    _, number = np.unique(source.astype(str), return_inverse=True)
    even = number % 2 == 0
    return [(even, ~even), (~even, even)]


MOVERS = 3
"""Heads that are taken for name movers at most, where inhibition is measured."""


def moving(written: np.ndarray, attention: np.ndarray, roles: list[str]) -> list[tuple[int, int]]:
    """The heads that write most for the right name of those that look at it most, and more than at the other name.

    written (pair, layer, head): in the clean prompt more than in the corrupt one; attention (pair, role, layer, head).
    Returned are layer, as a place, and head: at most `MOVERS`, none if no head is such.
    """
    looks = attention.mean(axis=0)
    io, *others = (looks[roles.index(role)] for role in NAMED)
    score = np.where(io > np.maximum(*others), written.mean(axis=0) * io, -np.inf)
    best = np.argsort(-score, axis=None, kind="stable")[:MOVERS]
    return [tuple(map(int, np.unravel_index(each, score.shape))) for each in best if score.flat[each] > 0]
