"""Continuations: what a model writes after documents."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers

from gatebook.routing.steering import generate


def write(
    model: transformers.PreTrainedModel,
    prompts: Sequence[np.ndarray],
    names: Sequence[int],
    tokens: int,
    *,
    ends: Sequence[int],
    seed: int | None = None,
    tokens_per_batch: int,
    advance: Callable[[int], object],
) -> list[np.ndarray]:
    """What a model writes after each prompt, up to its end of text, which is part of it.

    Only prompts of one length are in a batch, so that nothing is padded, and each has its own random numbers: which
    others there are changes a continuation no more than rounding does.

    Parameters
    ----------
    model
        With a head, in evaluation mode.
    prompts
        Token ids (token,) each.
    names
        A number for each prompt, by which its random numbers are drawn.
    tokens
        At most so many are written.
    ends
        The ids that end a text.
    seed
        Of the random numbers by which tokens are drawn from the model's probabilities; None for the likeliest ones.
    tokens_per_batch
        Prompts and what is written.
    advance
        Is told how many prompts are done.

    Returns
    -------
    list[numpy.ndarray]
        Token ids (token,) int32, at least one for each prompt.
    """
    lengths, written = np.array([len(prompt) for prompt in prompts]), [np.empty(0, np.int32)] * len(prompts)
    for length in np.unique(lengths):
        alike, several = np.flatnonzero(lengths == length), max(1, tokens_per_batch // (int(length) + tokens))
        for start in range(0, len(alike), several):
            rows = alike[start : start + several]
            ids = torch.from_numpy(np.stack([prompts[row] for row in rows]).astype(np.int64)).to(model.device)
            uniform = None
            if seed is not None:
                drawn = [np.random.default_rng([seed, names[row]]).random(tokens) for row in rows]
                uniform = torch.from_numpy(np.stack(drawn)).to(model.device)
            found = generate(model, ids, torch.arange(len(rows), device=model.device), tokens, uniform=uniform)
            for row, one in zip(rows, found.cpu().numpy().astype(np.int32), strict=True):
                ended = np.flatnonzero(np.isin(one, ends))
                written[row] = one[: ended[0] + 1] if len(ended) else one
            advance(len(rows))
    return written


def ends_of(model: transformers.PreTrainedModel, tokenizer) -> list[int]:
    """The ids that end a text: what the model's folder says, and the tokenizer."""
    stated = [model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id]
    listed = [each if isinstance(each, list) else [each] for each in stated]
    return sorted({end for each in listed for end in each if end is not None})
