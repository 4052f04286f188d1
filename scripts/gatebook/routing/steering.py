"""Steering: run a model with a vector added, or put in place, at some tokens of a layer.

What is changed is one of the kinds

- "residual": the residual stream, as it leaves the layer;
- "input": what the layer's block receives, which are the states that its router and its experts read;
- "logits": the router logits, after which the family's rule selects and weighs again. (Of a router that is a matrix,
  what is added to the states that it alone reads would be this, too.)

A token whose values are what they were keeps the module's own selection and weights, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
import transformers

from gatebook.routing.families import routing_rule
from gatebook.routing.patching import handing, hooked, returning
from gatebook.routing.routers import find_blocks, layers_of, selection_bias

KINDS = ("residual", "input", "logits")
Edit = Callable[[torch.Tensor], torch.Tensor]
"""From the values (row, position, width) of a kind to others."""


@contextmanager
def edited(model: transformers.PreTrainedModel, layer: int, kind: str, edit: Edit) -> Iterator[None]:
    """Within it the model runs with the values of a kind edited in one layer.

    Parameters
    ----------
    model
        With or without a head.
    layer
        Number of a layer; of the kinds "input" and "logits" one that has experts.
    kind
        One of `KINDS`.
    edit
        What is done, of values in the model's dtype; width is the hidden size, of logits the number of experts.
    """
    if kind == "residual":
        with returning(layers_of(model.base_model)[layer], edit):
            yield
        return
    block, shape = find_blocks(model.base_model)[layer], []

    def received(module, given, named):
        states = given[0] if given else named["hidden_states"]
        if kind == "logits":
            shape[:] = states.shape[:-1]
            return None
        return ((edit(states), *given[1:]), named) if given else (given, named | {"hidden_states": edit(states)})

    with hooked(block.register_forward_pre_hook(received, with_kwargs=True)):
        if kind == "input":
            yield
            return
        rule, bias = routing_rule(model.base_model.config), selection_bias(block)

        def decided(logits, weights, selected):
            after = edit(logits.view(*shape, -1)).view(logits.shape)
            hit = (after != logits).any(dim=-1, keepdim=True)
            chosen = torch.where(hit, rule.select(after, bias), selected)
            return torch.where(hit, rule.weights(after, chosen).to(weights.dtype), weights), chosen

        with handing(model, layer, decided):
            yield


def adding(vector: torch.Tensor, at: torch.Tensor | None = None) -> Edit:
    """The edit that adds a vector (width,), or one to each row (row, width), at tokens (row, position) bool, or all."""

    def edit(values: torch.Tensor) -> torch.Tensor:
        more = vector.to(values)
        after = values + (more if more.dim() == 1 else more[:, None])
        return after if at is None else torch.where(at.to(values.device)[..., None], after, values)

    return edit


def putting(vector: torch.Tensor, at: torch.Tensor) -> Edit:
    """The edit that puts a vector (width,) in the place of the values of tokens (row, position) bool."""
    return lambda values: torch.where(at.to(values.device)[..., None], vector.to(values), values)


@contextmanager
def steered(
    model: transformers.PreTrainedModel,
    kind: str,
    vectors: Mapping[int, torch.Tensor],
    at: torch.Tensor | None = None,
) -> Iterator[None]:
    """Within it vectors are added in some layers, by layer as `adding` has them, to the tokens `at`."""
    with ExitStack() as stack:
        for layer, vector in vectors.items():
            stack.enter_context(edited(model, layer, kind, adding(vector, at)))
        yield


@torch.inference_mode()
def values(
    model: transformers.PreTrainedModel, ids: torch.Tensor, kinds: Sequence[str], layers: Sequence[int]
) -> dict[tuple[str, int], torch.Tensor]:
    """What a model's layers hold of some kinds in texts (row, position): by kind and layer (row, position, width)."""
    found: dict[tuple[str, int], torch.Tensor] = {}

    def kept(key: tuple[str, int]) -> Edit:
        return lambda held: found.setdefault(key, held)

    with ExitStack() as stack:
        for kind in kinds:
            for layer in layers:
                stack.enter_context(edited(model, layer, kind, kept((kind, layer))))
        model.base_model(input_ids=ids, use_cache=False)
    return found


def means(
    model: transformers.PreTrainedModel,
    texts: Sequence[torch.Tensor],
    kinds: Sequence[str],
    layers: Sequence[int],
    first: int = 0,
) -> dict[tuple[str, int], torch.Tensor]:
    """The mean of what `values` gives over all tokens of some texts, from their place `first` on.

    Parameters
    ----------
    model
        With or without a head.
    texts
        Batches of texts of one length each, (row, position) int64: none is padded.
    kinds, layers
        Of which.
    first
        The first token that counts.

    Returns
    -------
    dict
        By kind and layer (width,) float64.
    """
    total: dict[tuple[str, int], torch.Tensor] = {}
    for ids in texts:
        for key, held in values(model, ids, kinds, layers).items():
            total[key] = total.get(key, 0) + held[:, first:].double().sum(dim=(0, 1))
    count = sum(ids[:, first:].numel() for ids in texts)
    return {key: summed / count for key, summed in total.items()}


@torch.inference_mode()
def generate(
    model: transformers.PreTrainedModel,
    prompts: torch.Tensor,
    continued: torch.Tensor,
    tokens: int,
    *,
    uniform: torch.Tensor | None = None,
    on_prompts: AbstractContextManager | None = None,
    on_written: AbstractContextManager | None = None,
) -> torch.Tensor:
    """Continuations of prompts, token by token from a cache; one that ends is continued, too.

    Parameters
    ----------
    model
        With a head, in evaluation mode.
    prompts
        (prompt, position) int64, none of which is padded.
    continued
        Which prompt each row continues, (row,) int64.
    tokens
        How many are written.
    uniform
        Numbers from 0 to 1 by which the tokens are drawn from the model's probabilities, (row, tokens) float64; None
        for the likeliest token each time.
    on_prompts
        A change within which the prompts are run, which is the same for all of them.
    on_written
        A change within which each written token is run: (row, 1). The prompts are run without it, and so the first
        written token, which they alone predict, is the same with it and without.

    Returns
    -------
    torch.Tensor
        (row, tokens) int64.
    """
    with on_prompts or nullcontext():
        read = model(input_ids=prompts, use_cache=True)
        if type(read.past_key_values) is transformers.DynamicCache:
            read.past_key_values.reorder_cache(continued)
            logits = read.logits[:, -1][continued]
        else:  # a family's own kind of cache, whose rows cannot be spread
            read = model(input_ids=prompts[continued], use_cache=True)
            logits = read.logits[:, -1]
    cache = read.past_key_values
    written = []
    with on_written or nullcontext():
        for step in range(tokens):
            if step:
                read = model(input_ids=written[-1][:, None], past_key_values=cache, use_cache=True)
                cache, logits = read.past_key_values, read.logits[:, -1]
            written.append(logits.argmax(dim=-1) if uniform is None else _drawn(logits, uniform[:, step]))
    return torch.stack(written, dim=1)


def _drawn(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token ids (row,) at which the summed probabilities of logits (row, id) reach numbers from 0 to 1 (row,)."""
    summed = logits.float().softmax(dim=-1).double().cumsum(dim=-1)
    wanted = (uniform.to(summed) * summed[:, -1])[:, None].contiguous()
    return torch.searchsorted(summed, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
