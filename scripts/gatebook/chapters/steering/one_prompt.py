"""Steering of one's own prompt: a contrast of two sets of texts added to it, or one text's values put into it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import transformers

from gatebook.chapters.steering.plan import log_ratio
from gatebook.chapters.steering.trial import Vectors, random_vectors, scaled
from gatebook.measures.vocabulary import token_texts
from gatebook.problem import Problem
from gatebook.routing import steering
from gatebook.routing.routers import find_blocks

STATES = ("before", "after", "random")
MOST_TOKENS = 10
"""So many next tokens are shown."""


@dataclass(frozen=True)
class Asked:
    """What is to be done to a prompt.

    prompt: the text; kind: one of `steering.KINDS`; layer: its number, None for all of them; at: the place of a token,
    from 0, "last", "last N", "all" or "generated"; dose: factor of a contrast; source: the text whose values are put
    into the prompt, or "" for a contrast, and source_at: the place of a token there; generate: how many tokens are
    written; samples: how many times; random: how many controls; seed: of the random numbers.
    """

    prompt: str
    kind: str = "residual"
    layer: int | None = None
    at: int | str = "generated"
    dose: float = 2.0
    source: str = ""
    source_at: int | str = "last"
    generate: int = 24
    samples: int = 8
    random: int = 5
    seed: int = 7


def place_of(text: str, key: str, *, within: bool) -> int | str:
    """A place as the command line has it: a token's, last, or, `within` a prompt, last N, all, generated.

    Raises a `Problem` for anything else.
    """
    word, _, number = text.partition(" ")
    if text.isdecimal():
        return int(text)
    if text == "last" or (within and (text in ("all", "generated") or (word == "last" and number.isdecimal()))):
        return text
    wanted = "the place of a token, from 0, last, 'last 3', all or generated" if within else "a place from 0, or last"
    raise Problem(f"{key} {text} is not allowed: write {wanted}.")


def mask(at: int | str, tokens: int, what: str) -> np.ndarray:
    """Which tokens of a text are meant by a place, (token,) bool; a `Problem` if the text has no such token."""
    found = np.zeros(tokens, bool)
    if at == "generated":
        return found
    if at == "all":
        return ~found
    if isinstance(at, int):
        if at >= tokens:
            raise Problem(f"there is no token {at}: {what} has tokens 0 to {tokens - 1}.")
        found[at] = True
        return found
    number = int(str(at).partition(" ")[2] or 1)
    if not 0 < number <= tokens:
        raise Problem(f"at {at} is not allowed: {what} has {tokens} tokens.")
    found[tokens - number :] = True
    return found


def check(asked: Asked, model: transformers.PreTrainedModel, tokens: int) -> list[int]:
    """The layers that are meant; a `Problem` if the model has not what is asked for."""
    layers = sorted(find_blocks(model.base_model))
    if asked.layer is not None and asked.layer not in layers:
        raise Problem(f"layer {asked.layer} has no experts: use one of {', '.join(map(str, layers))}, or all.")
    if not tokens:
        raise Problem("the prompt has no token: write a text.")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest and tokens + asked.generate > longest:
        more = f" with {asked.generate} to be generated" if asked.generate else ""
        raise Problem(f"the prompt has {tokens} tokens{more}, and the model reads {longest} at most: shorten it.")
    return layers if asked.layer is None else [asked.layer]


def contrast(
    model: transformers.PreTrainedModel,
    toward: Sequence[np.ndarray],
    away: Sequence[np.ndarray],
    kind: str,
    layers: list[int],
) -> Vectors:
    """The mean over all tokens of some texts less that of others.

    Parameters
    ----------
    model
        In evaluation mode.
    toward, away
        Texts (token,) of any lengths.
    kind, layers
        What of a layer it is the mean of, and of which layers.

    Returns
    -------
    Vectors
        By layer (width,).
    """
    means = []
    for texts in (toward, away):
        each = [torch.from_numpy(text)[None].to(model.device) for text in texts]
        means.append(steering.means(model, each, [kind], layers))
    return {layer: means[0][kind, layer] - means[1][kind, layer] for layer in layers}


def split(texts: Sequence[np.ndarray], name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Every second text, which makes the vector, and the others, which make the unigram model; a `Problem` for one."""
    if len(texts) < 2:
        raise Problem(f"{name} has {len(texts)} texts, and a contrast needs two: add one, each in a line of its own.")
    return list(texts[::2]), list(texts[1::2])


@torch.inference_mode()
def steer(
    model: transformers.PreTrainedModel, tokenizer, asked: Asked, vectors: Vectors, table: np.ndarray | None
) -> dict:
    """Add vectors to a prompt, or to what follows it, beside random vectors of the same length.

    Parameters
    ----------
    model, tokenizer
        With a head, in evaluation mode; its tokenizer.
    asked
        What is asked for.
    vectors
        By layer (width,), without the dose.
    table
        The log-likelihood ratio of every token id, (id,), or None.

    Returns
    -------
    dict
        See `_told`; `ratio`, by state the mean log-likelihood ratio of what is written, or None.
    """
    ids = _ids(tokenizer, asked.prompt)
    check(asked, model, len(ids))
    mine = scaled(vectors, asked.dose)
    others = random_vectors(asked.kind, mine, asked.random, asked.seed)
    at = torch.from_numpy(mask(asked.at, len(ids), "the prompt"))[None]
    everywhere = asked.at in ("generated", "all")

    def changes(each: Vectors | None):
        """On the prompt, and on what is written."""
        if each is None:
            return None, None
        on_prompt = steering.steered(model, asked.kind, each, at) if at.any() else None
        return on_prompt, steering.steered(model, asked.kind, each) if everywhere else None

    return _told(model, tokenizer, asked, ids, at[0].numpy(), [None, mine, *others], changes, table)


@torch.inference_mode()
def patch(model: transformers.PreTrainedModel, tokenizer, asked: Asked, others: Sequence[np.ndarray]) -> dict:
    """Put what a text's token holds in the place of what a prompt's token holds, beside tokens of random texts.

    Parameters
    ----------
    model, tokenizer
        With a head, in evaluation mode; its tokenizer.
    asked
        What is asked for.
    others
        Random texts (token,), each of which has the place that is taken: what they hold there is the control.

    Returns
    -------
    dict
        See `_told`.
    """
    ids, source = (_ids(tokenizer, text) for text in (asked.prompt, asked.source))
    layers = check(asked, model, len(ids))
    if not len(source):
        raise Problem("the text to take from has no token: write one.")
    taken = int(np.flatnonzero(mask(asked.source_at, len(source), "the text to take from"))[0])
    at = torch.from_numpy(mask(asked.at, len(ids), "the prompt"))[None]

    def held(text: np.ndarray) -> Vectors:
        found = steering.values(model, torch.from_numpy(text)[None].to(model.device), [asked.kind], layers)
        return {layer: found[asked.kind, layer][0, taken].clone() for layer in layers}

    def changes(each: Vectors | None):
        if each is None:
            return None, None
        stack = ExitStack()

        class Put:
            """Within it the values are put in place."""

            def __enter__(self):
                for layer, vector in each.items():
                    stack.enter_context(steering.edited(model, layer, asked.kind, steering.putting(vector, at)))

            def __exit__(self, *error):
                stack.close()

        return Put(), None

    conditions = [None, held(source), *(held(text) for text in others)]
    told = _told(model, tokenizer, asked, ids, at[0].numpy(), conditions, changes, None)
    return told | {"source_tokens": token_texts(tokenizer, source), "taken": taken}


def _ids(tokenizer, text: str) -> np.ndarray:
    return np.array(tokenizer(text, verbose=False)["input_ids"], np.int64)


def _told(model, tokenizer, asked: Asked, ids: np.ndarray, at: np.ndarray, conditions, changes, table) -> dict:
    """What came out, of the conditions before, after, and those of the controls after them.

    `tokens` of the prompt as text; `changed`: places; `kl`: by place, of the last changed token and the last one, nats
    after from before, of the change, and of the controls their mean and largest; `predicted`: the likeliest next tokens
    there, with the first control; `written`: by state the first of the continuations; `ratio`.
    """
    prompt = torch.from_numpy(ids)[None].to(model.device)
    logits, written = [], []
    uniform = torch.from_numpy(np.random.default_rng([asked.seed, 3]).random((asked.samples, max(asked.generate, 1))))
    continued = torch.zeros(asked.samples, dtype=torch.int64, device=model.device)
    for each in conditions:
        with changes(each)[0] or ExitStack():
            logits.append(model(input_ids=prompt, use_cache=False).logits[0].float().log_softmax(dim=-1))
        if asked.generate:
            on_prompts, on_written = changes(each)
            found = steering.generate(
                model, prompt, continued, asked.generate, uniform=uniform, on_prompts=on_prompts, on_written=on_written
            )
            written.append(found.cpu().numpy())
    places = sorted({*np.flatnonzero(at).tolist()[-1:], len(ids) - 1}) if at.any() else []
    told = {"tokens": token_texts(tokenizer, ids), "changed": np.flatnonzero(at).tolist(), "kl": [], "predicted": []}
    for place in places:
        rows = torch.stack([each[place] for each in logits])
        kl = (rows[0].exp() * (rows[0] - rows[1:])).sum(dim=-1).clamp(min=0).tolist()
        told["kl"].append({"place": place, "after": kl[0], "random": float(np.mean(kl[1:])), "most": max(kl[1:])})
        likely = rows[:3].exp().cpu().numpy()
        best = np.argsort(-likely[:2].max(axis=0), kind="stable")[:MOST_TOKENS]
        shown = [dict(zip(STATES, values, strict=True)) for values in likely[:, best].T.astype(float).tolist()]
        names = token_texts(tokenizer, best)
        told["predicted"].append(
            {"place": place, "tokens": [{"token": name} | row for name, row in zip(names, shown, strict=True)]}
        )
    told["written"] = {state: tokenizer.decode(each[0]) for state, each in zip(STATES, written, strict=False)}
    told["ratio"] = None
    if table is not None and written and asked.generate > 1:
        means = [float(table[each[:, 1:]].mean()) for each in written]
        spread = {"random": float(np.mean(means[2:])), "least": min(means[2:]), "most": max(means[2:])}
        told["ratio"] = {"before": means[0], "after": means[1]} | spread
    return told


def table_of(toward: Sequence[np.ndarray], away: Sequence[np.ndarray], vocabulary: int) -> np.ndarray:
    """The log-likelihood ratio of every token id under the unigram models of two sets of texts: (id,) float64."""
    return log_ratio(*(np.bincount(np.concatenate(list(texts)), minlength=vocabulary) for texts in (toward, away)))


def described(asked: Asked, given: Mapping) -> str:
    """What is done, in words."""
    layer = "all layers" if asked.layer is None else f"layer {asked.layer}"
    words = {"residual": "the residual stream", "input": "what routers and experts receive", "logits": "router logits"}
    at = {"all": "all tokens", "generated": "written tokens", "last": "the last token"}
    where = at.get(str(asked.at)) or (f"token {asked.at}" if isinstance(asked.at, int) else f"the {asked.at} tokens")
    if asked.source:
        return f"{words[asked.kind]} of another text put into {layer}, {where}"
    what = f"{given['toward']} from {given['away']}, {asked.dose:g} times"
    return f"{what}, added to {words[asked.kind]} of {layer}, {where}"
