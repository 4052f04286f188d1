"""The routing of a few texts, in memory: what extraction records of a dataset, without a study."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
import xarray as xr

from gatebook.inputs import documents
from gatebook.inputs.model_folder import load_config, load_tokenizer, window_size
from gatebook.problem import Problem
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.routing.records import PER_TOKEN, float32
from gatebook.routing.routers import find_routers, selection_biases, skeleton

TOKENS_PER_BATCH = 4096
"""On a CPU, as `extraction.tokens_per_batch` of the default study."""


def route(
    folder: str | Path,
    texts: Sequence[str],
    *,
    layers: str | int | list = "all",
    window: int | str = "context",
    dtype: str = "auto",
    device: str = "auto",
    threads: int = 1,
) -> xr.Dataset:
    """What the routers of a model do with texts, token by token.

    The same code as that of a study's extraction: the same texts, as the documents of a dataset, with the same settings
    on the same machine, have the same bits in the records. Everything is held in memory: a token takes 4 bytes for each
    layer and expert.

    Parameters
    ----------
    folder
        A model in the hub's layout: config.json, *.safetensors and its tokenizer.
    texts
        Each is a document of its own: no token sees those of another text.
    layers
        "all", a layer, a range such as "0-3", or a list of these; nothing after the last one is loaded or computed.
    window
        Tokens that the model sees at once; a longer text is cut into even windows. "context" is the model's longest.
    dtype
        "auto" (as stored) or the name of a torch dtype, such as "float32".
    device
        "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
    threads
        Of torch on a CPU, as `extraction.threads`; another number may change the last bits.

    Returns
    -------
    xarray.Dataset
        As in records: `router_logits` (layer, token, expert) float32, the router's raw output; `selected_expert`
        (layer, token, rank) uint8 or uint16, the largest weight first; `routing_weight` (layer, token, rank) float32,
        with which the experts' outputs are added; `selection_bias` (layer, expert) float32, if the routers have one.
        As in a dataset's tokens: `token_id`, `document_index` and `position`, its place in its window, (token,) int32;
        `text` (document,). And `token_text` (token,), each token as the tokenizer decodes it alone. None of these has a
        unit. The attribute `routing_rule` says in JSON how weights and selection follow from the logits.

    Raises
    ------
    Problem
        If the folder holds no model of a supported family with its tokenizer, there is no such layer or device, a
        window is longer than the context, or a text is empty.

    Examples
    --------
    >>> routing = route("results/demo/checkpoints/demo/step400", ["for i in range(3):", "Once"])  # doctest: +SKIP
    >>> routing["selected_expert"].sel(layer=1).isel(rank=0).to_numpy()  # doctest: +SKIP
    """
    config = load_config(folder)
    size, context = window_size(window, str(folder)), config.max_position_embeddings
    if size > context:
        raise Problem(f"window: {size} tokens are more than the model's context of {context}: write a smaller number.")
    chosen = _layers(config, layers)
    tokens = tokens_of(load_tokenizer(str(folder)), texts, size)
    loading = {"dtype": dtype, "device": models.choose_device(device), "attention": "auto", "experts": "auto"}
    wanted = "auto" if loading["device"].type == "cuda" else TOKENS_PER_BATCH
    found = routing_of(folder, tokens, layers=chosen, threads=threads, tokens_per_batch=wanted, **loading)
    return found.assign_attrs({"model": str(folder)} | found.attrs)


def tokens_of(tokenizer, texts: Sequence[str], window: int) -> xr.Dataset:
    """Texts as tokens.

    Parameters
    ----------
    tokenizer
        One of transformers.
    texts
        Each is a document of its own.
    window
        Tokens that the model sees at once.

    Returns
    -------
    xarray.Dataset
        `token_id`, `token_text`, `document_index`, `position` (token,) and `text` (document,), as `route` has them.

    Raises
    ------
    Problem
        If there is no text, or one has no token.
    """
    if isinstance(texts, str) or not len(texts):
        raise Problem("texts: a list of at least one text is needed: write [text] for a single one.")
    if empty := [number for number, text in enumerate(texts) if not tokenizer(text)["input_ids"]]:
        raise Problem(f"texts[{empty[0]}] has no token: leave it out.")
    named = [documents.Document(number, str(number), str(number), text) for number, text in enumerate(texts)]
    tokens = documents.tokenize("texts", named, tokenizer, window=window, token_limit=None, minimum_tokens=1)
    alone = np.array([tokenizer.decode([token]) for token in tokens["token_id"].values.tolist()], dtype=object)
    tokens["token_text"] = ("token", alone, {"long_name": "token, decoded alone"})
    return tokens[["token_id", "token_text", "document_index", "position", "text"]].reset_coords(drop=True)


def routing_of(
    folder: str | Path,
    tokens: xr.Dataset,
    *,
    layers: str | int | list,
    threads: int,
    tokens_per_batch: int | str,
    device: torch.device,
    **loading,
) -> xr.Dataset:
    """The `tokens` that `tokens_of` gives, with what the routers of a model do with them, as `route` has it.

    Parameters
    ----------
    folder
        In the hub's layout.
    tokens
        Of windows that the model can see at once.
    layers, threads
        As those of `route`.
    tokens_per_batch
        As `extraction.tokens_per_batch` of the config has it for the device.
    device, **loading
        Those of `models.load`.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    Problem
        As `models.load`, and for a layer that is not there.
    """
    config = load_config(folder, loading.get("trust_remote_code", False))
    rule, chosen = routing_rule(config), _layers(config, layers)
    model = models.load(folder, device=device, last_layer=chosen[-1], **loading)
    tokens = tokens.copy()
    with _threads(threads):
        found = _records(model, chosen, tokens, tokens_per_batch)
    logits, selected = found["router_logits"], found["selected_expert"]
    found["routing_weight"] = rule.weights(
        torch.from_numpy(logits), torch.from_numpy(selected.astype(np.int64))
    ).numpy()
    for name, values in found.items():
        dimensions, long_name, units = PER_TOKEN[name]
        tokens[name] = (("layer", *dimensions), values, {"long_name": long_name, "units": units})
    if rule.bias:
        biases = [bias.float().cpu().numpy() for bias in selection_biases(model, chosen).values()]
        words = {"long_name": "bias added to scores to select", "units": "1"}
        tokens["selection_bias"] = (("layer", "expert"), np.stack(biases), words)
    dense = sorted(set(range(config.num_hidden_layers)) - set(find_routers(skeleton(config))))
    attrs = {"window": tokens.attrs["window"], "routing_rule": rule.as_json(dense_layers=dense)}
    return tokens.assign_coords(layer=chosen).drop_attrs(deep=False).assign_attrs(attrs)


def _layers(config: transformers.PreTrainedConfig, layers: str | int | list) -> list[int]:
    """The numbers of the chosen layers with experts."""
    return models.choose_layers(layers, sorted(find_routers(skeleton(config))), "layers")


def _records(
    model: transformers.PreTrainedModel, layers: list[int], tokens: xr.Dataset, tokens_per_batch: int | str
) -> dict[str, np.ndarray]:
    """The exact records of all tokens, with the layers as their first axis."""
    starts = np.flatnonzero(tokens["position"].values == 0)
    budget = extraction.batch_tokens(tokens_per_batch, model.config, model.device, tokens.attrs["window"])
    found = [
        batch.records()
        for batch in extraction.extract(model, layers, tokens["token_id"].values, starts, tokens_per_batch=budget)
    ]
    order = np.argsort(np.concatenate([records.tokens for records in found]))
    whole = {
        name: np.concatenate([records.per_token[name] for records in found], axis=1)[:, order]
        for name in found[0].per_token
    }
    return whole | {"router_logits": float32(whole["router_logits"])}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads of torch, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
