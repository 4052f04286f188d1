"""A change of one expert, tried on texts: what it does to predictions, for the expert and for a matched control."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import transformers
import xarray as xr

from gatebook.chapters.interventions import CONTROL, EXPERT, MATCHED
from gatebook.chapters.interventions.asked import Asked
from gatebook.chapters.interventions.measure import Of, Pairs, Predicted, Trial, described, matched, shown_ids
from gatebook.measures.token_sample import beginnings
from gatebook.measures.vocabulary import token_texts
from gatebook.problem import Problem
from gatebook.routing.families import routing_rule
from gatebook.routing.patching import NO_EXPERT, Change, CleanRun, changed
from gatebook.routing.routers import find_blocks

ENDLESS = float("inf")


def tried(
    model: transformers.PreTrainedModel,
    tokenizer,
    asked: Asked,
    tokens: Callable[[str], xr.Dataset],
    *,
    settings: Mapping,
    tokens_per_batch: int,
    place: str,
) -> tuple[Trial, Of, dict]:
    """Try what is asked for, as the config and the command line do it.

    Parameters
    ----------
    model, tokenizer
        With a head, in evaluation mode; its tokenizer.
    asked
        What is asked for.
    tokens
        Gives the token file of a dataset by its name.
    settings
        Those of the chapter.
    tokens_per_batch
        That the model sees at once.
    place
        Where it was asked for, in the words of a `Problem`.

    Returns
    -------
    Trial, Of, dict
        What came out, on what, and the tokens and texts of it in words (`measure.described`).

    Raises
    ------
    Problem
        If the model has not what is asked for, or no token selects the expert.
    """
    if asked.prompt:
        ids, of = np.array([tokenizer(asked.prompt, verbose=False)["input_ids"]], np.int64), Of(np.zeros(0, object), "")
        if not ids.size:
            raise Problem(f"{place}: the prompt has no token: write a text.")
        check(asked, model, ids.shape[1], place)
    else:
        check(asked, model, 0, place)
        known = tokens(asked.dataset)
        drawn = {name: settings[name] for name in ("documents", "length", "seed")}
        ids, chosen = beginnings(known, np.ones(known.sizes["document"], bool), **drawn)
        if not len(ids):
            raise Problem(f"{place}: no document of {asked.dataset} has {settings['length']} tokens: lower length.")
        of = Of(known["cluster"].values[chosen].astype(object), asked.dataset)
    doses = doses_of(asked, settings["factors"], settings["deltas"])
    caliper = ENDLESS if asked.prompt else settings["caliper"]
    made = run(model, ids, asked, doses, caliper=caliper, tokens_per_batch=tokens_per_batch, place=place)
    ids_shown = shown_ids(made)
    names = dict(zip(ids_shown.tolist(), token_texts(tokenizer, ids_shown), strict=True))
    told = described(asked, made, names) | {"tokens": token_texts(tokenizer, ids[0]) if asked.prompt else []}
    return made, of, told | {"written": [tokenizer.decode(each) for each in made.written]}


def places(asked: Asked, positions: int, prompt: int) -> np.ndarray:
    """At which tokens of a text a change is asked for: (position,) bool; `prompt` is the length of the prompt in it."""
    found = np.zeros(positions, bool)
    if asked.at == "all":
        found[:prompt] = True
    elif asked.at == "generated":
        found[prompt:] = True
    else:
        found[prompt - 1 if asked.at == "last" else asked.at] = True
    return found


def change_of(asked: Asked, dose: float) -> Change:
    """A change with some dose."""
    if asked.stage == "logit":
        return Change("logit", delta=dose)
    return Change(asked.stage, factor=dose) if asked.stage == "weight" else Change("score")


def doses_of(asked: Asked, factors: Iterable[float], deltas: Iterable[float]) -> list[float]:
    """The doses that are tried, increasing, the one that is asked for among them; one in the stage "score"."""
    more = {"weight": factors, "logit": deltas, "score": ()}[asked.stage]
    return sorted({float(dose) for dose in (asked.dose, *more)})


def check(asked: Asked, model: transformers.PreTrainedModel, tokens: int, place: str) -> None:
    """A `Problem`, which begins with `place`, if the model has not what is asked for, or a text is too long for it.

    tokens: of the prompt, 0 for a dataset.
    """
    layers, rule = sorted(find_blocks(model.base_model)), routing_rule(model.base_model.config)
    if asked.layer not in layers:
        raise Problem(f"{place}: layer {asked.layer} has no experts: use one of {', '.join(map(str, layers))}.")
    if asked.expert is not None and asked.expert >= rule.experts:
        raise Problem(f"{place}: there is no expert {asked.expert}: use one from 0 to {rule.experts - 1}.")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest and tokens + asked.generate > longest:
        more = f" with {asked.generate} to be generated" if asked.generate else ""
        raise Problem(
            f"{place}: the prompt has {tokens} tokens{more}, and the model reads {longest} at most: shorten it."
        )
    if isinstance(asked.at, int) and asked.at >= tokens:
        raise Problem(f"{place}: there is no token {asked.at}: the prompt has tokens 0 to {tokens - 1}.")


@torch.inference_mode()
def run(
    model: transformers.PreTrainedModel,
    ids: np.ndarray,
    asked: Asked,
    doses: Sequence[float],
    *,
    caliper: float,
    tokens_per_batch: int,
    place: str,
) -> Trial:
    """Try a change.

    Parameters
    ----------
    model
        With a head, in evaluation mode.
    ids
        Token ids (text, position) int64; of a prompt one text.
    asked
        What is asked for (see `check`).
    doses
        See `doses_of`.
    caliper
        By what share the weights of a matched control may differ; infinite for a prompt.
    tokens_per_batch
        That the model sees at once.
    place
        Where it was asked for, in the words of a `Problem`.

    Returns
    -------
    Trial

    Raises
    ------
    Problem
        If no token that is asked for selects the expert.
    """
    prompt = ids.shape[1]
    whole = ids
    if asked.at == "generated":
        whole = np.concatenate([ids, [generate(model, ids[0], asked.generate)]], axis=1)
    at = places(asked, whole.shape[1], prompt)
    several = max(tokens_per_batch // whole.shape[1], 1)
    runs = [
        CleanRun(model, torch.from_numpy(whole[start : start + several]).to(model.device))
        for start in range(0, len(whole), several)
    ]
    selected = np.concatenate([each.selected[asked.layer].cpu().numpy() for each in runs])
    weight = np.concatenate([each.weights[asked.layer].float().cpu().numpy() for each in runs])
    expert = _expert(asked, selected, weight, at, place)
    pairs = [matched(*each, expert, at, caliper) for each in zip(selected, weight, strict=True)]
    numbers = _numbers(pairs, expert, selected)
    parts = {who: [] for who in numbers}
    predicted: list[Predicted] = []
    for index, clean in enumerate(runs):
        rows = slice(index * several, (index + 1) * several)
        every = torch.arange(len(clean.token_ids), device=model.device)
        before = clean.logits_within(asked.layer, every, changed(model, asked.layer, Change("weight"), NO_EXPERT))
        shown = {}
        for who, one in numbers.items():
            experts = torch.from_numpy(one[rows]).to(model.device)
            found = []
            for dose in doses:
                change = changed(model, asked.layer, change_of(asked, dose), experts)
                after = clean.logits_within(asked.layer, every, change)
                found.append(_sums(before, after, clean.token_ids, one[rows]))
                if dose == asked.dose and asked.prompt:
                    shown[who] = after
            parts[who].append(found)
        if asked.prompt:
            last = {int(np.flatnonzero(numbers[EXPERT][0] >= 0)[-1]), whole.shape[1] - 1}
            three = (before, shown[EXPERT], shown.get(CONTROL, before))
            predicted = [
                Predicted(each, *(one[0, each].float().softmax(dim=-1).cpu().numpy() for one in three))
                for each in sorted(last)
            ]
    sums = {who: _joined(found) for who, found in parts.items()}
    controls = np.concatenate([pair.control for pair in pairs])
    found = dict(zip(*np.unique(controls, return_counts=True), strict=True))
    weights = _weights(pairs, expert, selected, weight, at)
    written = _written(model, ids[0], asked, expert, numbers) if asked.generate else []
    return Trial(
        expert, list(doses), sums, weights, {int(key): int(count) for key, count in found.items()}, predicted, written
    )


def _expert(asked: Asked, selected: np.ndarray, weight: np.ndarray, at: np.ndarray, place: str) -> int:
    """The expert that is asked for, or that with the most weight in these tokens; a `Problem` if none selects it."""
    chosen, given = selected[:, at].ravel(), weight[:, at].ravel()
    if asked.expert is None:
        return int(np.bincount(chosen, given).argmax())
    if asked.expert not in chosen:
        total = np.bincount(chosen, given)
        most = [each for each in total.argsort()[::-1].tolist() if each in chosen][:8]
        raise Problem(
            f"{place}: no token that is asked for selects expert {asked.expert} in layer {asked.layer} "
            f"({asked.where}): use one that has weight there, such as {', '.join(map(str, most))}."
        )
    return asked.expert


def _numbers(pairs: Sequence[Pairs], expert: int, selected: np.ndarray) -> dict[str, np.ndarray]:
    """Which expert is changed in each token, by what is changed: (text, position) int64."""
    found = {who: np.full(selected.shape[:2], NO_EXPERT) for who in (EXPERT, MATCHED, CONTROL)}
    for index, pair in enumerate(pairs):
        found[EXPERT][index, pair.own] = expert
        found[MATCHED][index, pair.matched] = expert
        found[CONTROL][index, pair.place] = pair.control
    return found


def _weights(
    pairs: Sequence[Pairs], expert: int, selected: np.ndarray, weight: np.ndarray, at: np.ndarray
) -> dict[str, float]:
    """Mean routing weights of what is changed; NaN where nothing is."""
    mine = weight[(selected == expert) & at[:, None]]
    of_pairs = [np.concatenate([getattr(pair, name) for pair in pairs]) for name in ("weight", "other_weight")]
    values = dict(zip((EXPERT, MATCHED, CONTROL), (mine, *of_pairs), strict=True))
    return {who: float(each.mean()) if len(each) else float("nan") for who, each in values.items()}


def _sums(before: torch.Tensor, after: torch.Tensor, ids: torch.Tensor, experts: np.ndarray) -> dict[str, np.ndarray]:
    """The sums of a `Trial` for one dose and some texts: (text,) each."""
    hit = torch.from_numpy(experts >= 0).to(ids.device)
    later = (hit.cumsum(dim=1) > 0) & ~hit
    found = {name: [] for name in ("kl", "kl_after", "added_loss")}
    for index in range(len(ids)):  # text by text: probabilities of all of them take much memory
        p, q = (each[index].float().log_softmax(dim=-1) for each in (before, after))
        kl = (p.exp() * (p - q)).sum(dim=-1).double().clamp(min=0)
        lost = (p - q)[:-1].gather(-1, ids[index, 1:, None])[:, 0].double()
        found["kl"].append(kl[hit[index]].sum())
        found["kl_after"].append(kl[later[index]].sum())
        found["added_loss"].append(lost[hit[index, :-1]].sum())
    counts = {"tokens": hit.sum(dim=1), "tokens_after": later.sum(dim=1), "tokens_loss": hit[:, :-1].sum(dim=1)}
    stacked = {name: torch.stack(each) for name, each in found.items()}
    return {name: each.cpu().numpy() for name, each in (stacked | counts).items()}


def _joined(batches: list[list[dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """The sums of all batches: values (text, dose), counts (text,), which are the same for all doses."""
    found = {}
    for name in batches[0][0]:
        whole = np.concatenate([np.stack([dose[name] for dose in batch], axis=1) for batch in batches])
        found[name] = whole[:, 0] if name.startswith("tokens") else whole
    return found


def _written(
    model: transformers.PreTrainedModel, ids: np.ndarray, asked: Asked, expert: int, numbers: dict[str, np.ndarray]
) -> list[list[int]]:
    """What a model writes after a prompt, before a change, after it, and with the control."""
    change, found = change_of(asked, asked.dose), [generate(model, ids, asked.generate)]
    for who in (EXPERT, CONTROL):
        if asked.at == "generated":
            follows = expert if who == EXPERT else NO_EXPERT
            fixed = np.full(len(ids), NO_EXPERT)
            found.append(generate(model, ids, asked.generate, asked.layer, change, fixed, (expert, follows)))
        else:
            found.append(generate(model, ids, asked.generate, asked.layer, change, numbers[who][0]))
    return found


@torch.inference_mode()
def generate(
    model: transformers.PreTrainedModel,
    ids: np.ndarray,
    tokens: int,
    layer: int = 0,
    change: Change | None = None,
    experts: np.ndarray | None = None,
    generated: tuple[int, int] | None = None,
) -> list[int]:
    """The most likely continuation of a text, token by token.

    The whole text is run anew for each token, so that a change acts in each where it is meant to, and in no other.

    Parameters
    ----------
    model
        With a head.
    ids
        Token ids of the text (position,).
    tokens
        How many are written.
    layer, change
        What is changed; nothing if `change` is None.
    experts
        To which expert in each token of the text, `NO_EXPERT` for none: (position,) int64.
    generated
        An expert, and which one is changed in those of the written tokens that select it: itself, or, with
        `NO_EXPERT`, the selected one whose weight is nearest to its own. None: written tokens are not changed.

    Returns
    -------
    list[int]
        Token ids.
    """
    ids = torch.as_tensor(np.asarray(ids, np.int64), device=model.device)
    numbers = torch.full((len(ids),), NO_EXPERT) if experts is None else torch.as_tensor(experts)
    written: list[int] = []
    for _ in range(tokens):
        if written and generated and change:
            _, selected, weights = _run(model, ids, layer, change, numbers)
            numbers[-1] = _follows(selected[-1], weights[-1], *generated)
        logits, *_ = _run(model, ids, layer, change, numbers)
        written.append(int(logits.argmax()))
        ids = torch.cat([ids, ids.new_tensor(written[-1:])])
        numbers = torch.cat([numbers, numbers.new_tensor([NO_EXPERT])])
    return written


def _follows(selected: torch.Tensor, weights: torch.Tensor, expert: int, wanted: int) -> int:
    """Which expert is changed in a written token that selects experts (rank,) with weights (rank,)."""
    if expert not in selected.tolist():
        return NO_EXPERT
    if wanted == expert:
        return expert
    apart = (weights - weights[selected == expert]).abs().masked_fill(selected == expert, ENDLESS)
    return int(selected[apart.argmin()]) if len(selected) > 1 else NO_EXPERT


def _run(
    model: transformers.PreTrainedModel, ids: torch.Tensor, layer: int, change: Change | None, experts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits after a text's last token, and the experts and weights (position, rank) of a layer."""
    handed: list[torch.Tensor] = []
    block = find_blocks(model.base_model)[layer] if change else None
    if change is None:
        return model(input_ids=ids[None], use_cache=False).logits[0, -1], ids, ids
    with changed(model, layer, change, experts[None].to(ids.device)):
        handle = block.experts.register_forward_pre_hook(lambda module, given: handed.extend(given[1:]))
        try:
            logits = model(input_ids=ids[None], use_cache=False).logits[0, -1]
        finally:
            handle.remove()
    return logits, *(each.view(len(ids), -1) for each in handed)
