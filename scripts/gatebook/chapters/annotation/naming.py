"""Naming: a model names its own experts, from lists of the tokens that they get.

The prompt holds two lists with their kinds, which teach the form and are no labels, and the expert's list. The label
is the one with the largest

    log P(label | prompt with the expert's tokens) - log P(label | prompt with no tokens),

because a label that is likely after no tokens at all says nothing of the expert. Its own words are the likeliest tokens
after the same prompt, up to the end of the line.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import transformers
import xarray as xr

from gatebook.chapters.annotation import scoring
from gatebook.chapters.annotation.labels import OWN, Labels
from gatebook.chapters.annotation.scoring import CHOOSING
from gatebook.measures import vocabulary
from gatebook.measures.vocabulary import escaped
from gatebook.routing.steering import generate

FORM = "List: apple, pear, plum\nKind: fruit\n\nList: Monday, Friday, Sunday\nKind: days of the week\n\nList: {}\nKind:"
NONE_LISTED = ""


class Asked(NamedTuple):
    """What a model is asked: experts (n,) of layers (n,), the tokens of each, and the labels that it may give."""

    layers: list[int]
    experts: list[int]
    lists: list[list[str]]
    candidates: list[str]


def typical(code: np.ndarray, selected: np.ndarray, ids: int, experts: int, most: int) -> np.ndarray:
    """The ids by which an expert's tokens differ most from all tokens, (expert, place) int64.

    They have the largest p log(p / q), p the id's share of the expert's tokens and q that of all tokens.

    Parameters
    ----------
    code
        Number of the id of each token, (token,).
    selected
        Its experts, (token, rank).
    ids, experts
        How many there are.
    most
        Ids of each expert.

    Returns
    -------
    numpy.ndarray
    """
    mine = vocabulary.count(code, selected, ids, experts).astype(float)
    share = mine / np.maximum(mine.sum(axis=1, keepdims=True), 1)
    usual = np.bincount(code, minlength=ids) / max(len(code), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(mine > 0, share * np.log(share / usual), 0)
    return np.argsort(-apart, axis=1, kind="stable")[:, :most]


def ask(
    labels: Labels,
    group: np.ndarray,
    layers: Sequence[tuple[int, int, np.ndarray]],
    decode: Callable[[np.ndarray], str],
    *,
    minimum_share: float,
    named: int,
    listed: int,
    seed: int,
) -> Asked:
    """Which experts a model is to name, and from which tokens of the first half.

    Parameters
    ----------
    labels, group
        Of the tokens that count.
    layers
        Number of each layer, how many experts it has, and those of the tokens, (token, rank).
    decode
        Turns an id, (1,), into text.
    minimum_share
        Of the tokens that a label must have, and be without.
    named
        At most so many experts of each layer, at random among those that tokens of the first half select.
    listed
        Tokens of each.
    seed
        Of the draw.

    Returns
    -------
    Asked
        Candidates are a token's own labels, which alone follow from a list of tokens.
    """
    among = scoring.eligible(*scoring.totals(labels, group), minimum_share)[: len(OWN)]
    first = CHOOSING[group]
    found = Asked([], [], [], [name for name, known in zip(OWN, among, strict=True) if known])
    for number, experts, selected in layers:
        code, chosen = labels.code[first], selected[first]
        used = np.flatnonzero(np.bincount(chosen.ravel(), minlength=experts))
        rng = np.random.default_rng([seed, number])
        lists = typical(code, chosen, len(labels.token_id), experts, listed)
        for expert in np.sort(rng.permutation(used)[:named]).tolist():
            found.layers.append(number)
            found.experts.append(expert)
            found.lists.append([escaped(decode(labels.token_id[[place]]).strip(" ")) for place in lists[expert]])
    return found


@torch.inference_mode()
def log_likelihoods(
    model: transformers.PreTrainedModel, prompt: np.ndarray, endings: Sequence[np.ndarray]
) -> np.ndarray:
    """The log-probability of each of some continuations (token,) of a prompt (token,): float64 (ending,), in nats."""
    longest = max(map(len, endings))
    rows = np.zeros((len(endings), longest), np.int64)
    known = np.zeros(rows.shape, bool)
    for row, ending in enumerate(endings):
        rows[row, : len(ending)], known[row, : len(ending)] = ending, True
    given, token = (torch.from_numpy(each).to(model.device) for each in (prompt.astype(np.int64), rows))
    read = model(input_ids=given[None], use_cache=True)
    if type(read.past_key_values) is transformers.DynamicCache:
        first = read.logits[:, -1:].expand(len(rows), -1, -1)
        read.past_key_values.reorder_cache(torch.zeros(len(rows), dtype=torch.int64, device=model.device))
        rest = first[:, :0]
        if longest > 1:
            rest = model(input_ids=token[:, :-1], past_key_values=read.past_key_values, use_cache=True).logits
        logits = torch.cat([first, rest], dim=1)
    else:  # a family's own kind of cache, whose rows cannot be spread
        whole = torch.cat([given.expand(len(rows), -1), token], dim=1)
        logits = model(input_ids=whole, use_cache=False).logits[:, len(prompt) - 1 : -1]
    likely = logits.float().log_softmax(dim=-1).gather(-1, token[..., None])[..., 0].double().cpu().numpy()
    return np.where(known, likely, 0).sum(axis=1)


def name(
    model: transformers.PreTrainedModel,
    tokenizer,
    asked: Asked,
    written: int,
    advance: Callable[[int], object] = lambda experts: None,
) -> tuple[list[str], list[str]]:
    """The label that a model gives each expert, and what it writes about it.

    Parameters
    ----------
    model
        With a head, in evaluation mode.
    tokenizer
        Of the transformers library.
    asked
        The experts, see `ask`.
    written
        How many tokens of its own it writes about each.
    advance
        Is called with numbers of experts done.

    Returns
    -------
    labels, words : list of str
        One for each expert.
    """
    if not asked.experts:
        return [], []
    endings = [_ids(tokenizer, f" {label}", False) for label in asked.candidates]
    nothing = log_likelihoods(model, _ids(tokenizer, FORM.format(NONE_LISTED), True), endings)
    given, words = [], []
    for listed in asked.lists:
        prompt = _ids(tokenizer, FORM.format(", ".join(listed)), True)
        more = log_likelihoods(model, prompt, endings) - nothing
        given.append(asked.candidates[int(more.argmax())])
        words.append(_written(model, tokenizer, prompt, written))
        advance(1)
    return given, words


def _written(model: transformers.PreTrainedModel, tokenizer, prompt: np.ndarray, tokens: int) -> str:
    """The likeliest continuation of a prompt, up to the end of its line, escaped."""
    if not tokens:
        return ""
    ids = torch.from_numpy(prompt)[None].to(model.device)
    made = generate(model, ids, torch.zeros(1, dtype=torch.int64, device=model.device), tokens)
    text = tokenizer.decode(made[0].tolist(), skip_special_tokens=True)
    return escaped(text.strip().split("\n")[0].strip())


def _ids(tokenizer, text: str, special: bool) -> np.ndarray:
    return np.array(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"], np.int64)


def named(
    asked: Asked, given: Sequence[str], written: Sequence[str], layers: Sequence[int], experts: int
) -> xr.Dataset:
    """What a model said, as a file holds it.

    Parameters
    ----------
    asked
        The experts.
    given, written
        The label of each, and what it wrote, see `name`.
    layers, experts
        All layers, and how many experts a layer has.

    Returns
    -------
    xarray.Dataset
        `label`, `written` (layer, expert) text, "" of experts that it was not asked about.
    """
    found = {kind: np.full((len(layers), experts), "", dtype=object) for kind in ("label", "written")}
    for layer, expert, *said in zip(asked.layers, asked.experts, given, written, strict=True):
        for kind, text in zip(found, said, strict=True):
            found[kind][list(layers).index(layer), expert] = text
    return xr.Dataset(
        {kind: (("layer", "expert"), values) for kind, values in found.items()}, coords={"layer": list(layers)}
    )
