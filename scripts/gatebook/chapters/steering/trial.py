"""What vectors do: which layer steers, what is written, and what it costs."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import transformers

from gatebook.chapters.steering.plan import Prompts, Side, log_ratio
from gatebook.routing import steering
from gatebook.routing.patching import CleanRun
from gatebook.routing.routers import find_blocks

Vectors = dict[int, torch.Tensor]
"""By layer (width,)."""
NOT_CARRIED = ("input", "logits")
"""Kinds of which nothing is carried on to the next layer: they are tried in all layers at once, too."""


class Outcome(NamedTuple):
    """What came out of one pair of datasets.

    layers: those with experts; chosen: by kind those in which the vector is added; choosing: by kind the mean
    log-likelihood ratio of each candidate, a layer or, the last one, all of them (candidate,); steered: by kind
    (prompt, 1 + dose), the first one unsteered; random: by kind (prompt, vector); prices: by kind, added nats of each
    held-out text of the first and of the second dataset ((text, condition),) twice, of the doses and of random vectors
    after them; tokens: over how many tokens of a text; moved: by kind (text of both, condition) share of slots;
    examples: by kind token ids of the first prompt, and of what follows, unsteered and steered at the compared dose.
    """

    layers: list[int]
    chosen: dict[str, list[int]]
    choosing: dict[str, np.ndarray]
    steered: dict[str, np.ndarray]
    random: dict[str, np.ndarray]
    prices: dict[str, tuple[np.ndarray, np.ndarray]]
    tokens: int
    moved: dict[str, np.ndarray]
    examples: dict[str, list[list[int]]]


def contrast(
    model: transformers.PreTrainedModel,
    one: Side,
    other: Side,
    layers: Sequence[int],
    first: int,
    tokens_per_batch: int,
) -> dict[str, Vectors]:
    """The mean of the texts of one dataset less that of the other.

    Parameters
    ----------
    model
        In evaluation mode.
    one, other
        The datasets.
    layers
        Numbers of layers.
    first
        The first position that counts.
    tokens_per_batch
        Tokens that the model sees at once.

    Returns
    -------
    dict[str, Vectors]
        By kind, and of these by layer (width,).
    """
    means = []
    for each in (one, other):
        rows = max(tokens_per_batch // each.made.shape[1], 1)
        ids = torch.from_numpy(each.made).to(model.device)
        means.append(steering.means(model, ids.split(rows), steering.KINDS, layers, min(first, ids.shape[1] - 1)))
    return {kind: {layer: means[0][kind, layer] - means[1][kind, layer] for layer in layers} for kind in steering.KINDS}


def random_vectors(kind: str, vectors: Vectors, number: int, seed: int) -> list[Vectors]:
    """Random vectors of the same length: permutations of the vector of router logits, else directions.

    Parameters
    ----------
    kind
        Of which they are.
    vectors
        By layer (width,).
    number, seed
        How many, and the seed of them.

    Returns
    -------
    list[dict[int, torch.Tensor]]
    """
    rng = np.random.default_rng([seed, 2])
    found = []
    for _ in range(number):
        made = {}
        for layer, vector in vectors.items():
            if kind == "logits":
                made[layer] = vector[torch.from_numpy(rng.permutation(len(vector))).to(vector.device)]
            else:
                direction = torch.from_numpy(rng.standard_normal(len(vector))).to(vector)
                made[layer] = direction * (vector.norm() / direction.norm())
        found.append(made)
    return found


def scaled(vectors: Vectors, dose: float) -> Vectors:
    """Vectors times a dose."""
    return {layer: dose * vector for layer, vector in vectors.items()}


def written(
    model: transformers.PreTrainedModel,
    prompts: np.ndarray,
    kind: str,
    conditions: Sequence[Vectors],
    tokens: int,
    seed: int,
    rows_per_batch: int,
) -> np.ndarray:
    """What the model writes after prompts with each of some vectors added to the written tokens.

    All conditions draw by the same random numbers, which depend on the prompt's number and the seed.

    Parameters
    ----------
    model
        With a head.
    prompts
        (prompt, position) int64.
    kind
        What vectors are added to.
    conditions
        Vectors by layer; nothing is added in layers that a condition lacks.
    tokens, seed, rows_per_batch
        How many are written; of the random numbers; how many texts are written at once.

    Returns
    -------
    numpy.ndarray
        (condition, prompt, tokens) int64.
    """
    uniform = torch.from_numpy(np.random.default_rng([seed, 3]).random((len(prompts), tokens)))
    ids = torch.from_numpy(prompts).to(model.device)
    stacked = {}
    for layer in sorted({layer for each in conditions for layer in each}):
        like = next(each[layer] for each in conditions if layer in each)
        stacked[layer] = torch.stack([each.get(layer, torch.zeros_like(like)) for each in conditions])
    row = torch.arange(len(conditions) * len(prompts), device=model.device)
    found = []
    for part in row.split(max(rows_per_batch, 1)):
        condition, prompt = part // len(prompts), part % len(prompts)
        vectors = {layer: each[condition.to(each.device)] for layer, each in stacked.items()}
        during = steering.steered(model, kind, vectors)
        drawn = uniform[prompt.cpu()]
        found.append(steering.generate(model, ids, prompt, tokens, uniform=drawn, on_written=during).cpu())
    return torch.cat(found).numpy().reshape(len(conditions), len(prompts), tokens)


def ratios(texts: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The mean log-likelihood ratio of written tokens (..., token) but the first, before which nothing is added."""
    return table[texts[..., 1:]].mean(axis=-1)


def priced(
    model: transformers.PreTrainedModel,
    texts: np.ndarray,
    kind: str,
    conditions: Sequence[Vectors],
    first: int,
    rows: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What vectors cost: they are added to all tokens of a text from the place `first` on.

    Parameters
    ----------
    model
        With a head.
    texts
        (text, position) int64.
    kind
        What vectors are added to.
    conditions
        Vectors by layer; the first condition is what the others are compared with.
    first
        The first token to which they are added.
    rows
        How many texts are run at once.

    Returns
    -------
    losses : numpy.ndarray
        Nats of each text, summed over what tokens from `first` on predict: (text, condition) float64.
    moved : numpy.ndarray
        Which share of the slots of these tokens has an expert that the first condition does not select, mean over
        layers: (text, condition) float64.
    """
    losses, moved = [], []
    for ids in torch.from_numpy(texts).to(model.device).split(max(rows, 1)):
        at = (torch.arange(ids.shape[1], device=ids.device) >= first).expand(ids.shape)
        clean, lost, shares = None, [], []
        for vectors in conditions:
            with steering.steered(model, kind, vectors, at) if vectors else nullcontext():
                run = CleanRun(model, ids)
            clean = clean or run
            lost.append(run.loss[:, first:].double().sum(dim=1).cpu())
            shares.append(_moved(clean, run, first))
        losses.append(torch.stack(lost, dim=1))
        moved.append(torch.stack(shares, dim=1))
    return torch.cat(losses).numpy(), torch.cat(moved).numpy()


def _moved(clean: CleanRun, run: CleanRun, first: int) -> torch.Tensor:
    """The share of slots with an expert that the clean run does not select, mean over layers: (text,) float64."""
    shares = []
    for layer, selected in run.selected.items():
        now, before = selected[:, first:], clean.selected[layer][:, first:]
        stays = (now[..., :, None] == before[..., None, :]).any(dim=-1)
        shares.append(1 - stays.double().mean(dim=(1, 2)).cpu())
    return torch.stack(shares).mean(dim=0)


def run(
    model: transformers.PreTrainedModel,
    one: Side,
    other: Side,
    choosing: Prompts,
    prompts: Prompts,
    settings: Mapping,
    tokens_per_batch: int,
) -> Outcome:
    """Steer from one dataset to another.

    Parameters
    ----------
    model
        With a head, in evaluation mode.
    one, other
        The dataset that is steered toward, and the other.
    choosing, prompts
        By which the layer is chosen, and those that count.
    settings
        Those of the chapter.
    tokens_per_batch
        That the model sees at once; a fourth as many texts are written at once.

    Returns
    -------
    Outcome
    """
    layers, table = sorted(find_blocks(model.base_model)), log_ratio(one.words, other.words)
    first, at_once, seed = settings["prompt"], tokens_per_batch // 4, settings["seed"]
    vectors = contrast(model, one, other, layers, first, tokens_per_batch)
    dose, doses = settings["compared_dose"], settings["doses"]
    texts = [each.held_out for each in (one, other)]
    start = min(first, texts[0].shape[1] - 1)
    found = Outcome(layers, {}, {}, {}, {}, {}, texts[0].shape[1] - 1 - start, {}, {})
    rows = max(tokens_per_batch // texts[0].shape[1], 1)
    for kind in steering.KINDS:
        candidates = [[layer] for layer in layers] + ([layers] if kind in NOT_CARRIED else [])
        tried = [scaled({layer: vectors[kind][layer] for layer in each}, dose) for each in candidates]
        texts_written = written(model, choosing.ids, kind, tried, settings["tokens"], seed, at_once)
        found.choosing[kind] = ratios(texts_written, table).mean(axis=1)
        found.chosen[kind] = candidates[int(found.choosing[kind].argmax())]
        mine = {layer: vectors[kind][layer] for layer in found.chosen[kind]}
        others = [scaled(each, dose) for each in random_vectors(kind, mine, settings["random"], seed)]
        conditions = [{}, *(scaled(mine, each) for each in doses), *others]
        texts_written = written(model, prompts.ids, kind, conditions, settings["tokens"], seed, at_once)
        all_ratios = ratios(texts_written, table).T
        found.steered[kind], found.random[kind] = np.split(all_ratios, [1 + len(doses)], axis=1)
        shown = (0, 1 + doses.index(dose))
        found.examples[kind] = [prompts.ids[0].tolist(), *(texts_written[each, 0].tolist() for each in shown)]
        conditions = conditions[: 1 + len(doses) + settings["priced"]]
        parts = [priced(model, each, kind, conditions, start, rows) for each in texts]
        found.prices[kind] = tuple(losses[:, 1:] - losses[:, :1] for losses, _ in parts)
        found.moved[kind] = np.concatenate([moved[:, 1:] for _, moved in parts])
    return found
