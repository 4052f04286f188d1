"""Extraction: one forward pass that records what every router received, decided and returned."""

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
import xarray as xr
from torch import nn

from gatebook.files import netcdf
from gatebook.inputs.windows import blocks
from gatebook.problem import Problem
from gatebook.routing import bins
from gatebook.routing.families import routing_rule
from gatebook.routing.records import Records, RecordWriter, contents_of, expert_dtype
from gatebook.routing.routers import find_routers, selection_biases
from gatebook.routing.rule import RoutingRule, check_rule
from gatebook.run import job

BATCHES_PER_POOL = 8
"""A pool is a block of windows: sorted inside for batches, and written in order, so memory is flat."""
ROWS_PER_HEAD = 1024


class _Finished(Exception):
    """Raised by the last wanted router: nothing after it needs to be computed."""


class RouterCapture:
    """Forward hooks that keep what the routers of the wanted layers return, and stop the model at the last of them.

    `states` holds, by layer, the rows `rows` (row,) of what the routers received: (row, hidden). With `whole` the model
    runs to its end and `hidden` is its last hidden state (window, position, hidden).
    """

    def __init__(self, routers: dict[int, nn.Module], layers: list[int], whole: bool = False):
        """Watch `routers` (by layer index) at `layers`."""
        self._routers = {layer: routers[layer] for layer in layers}
        self._whole = whole
        self._seen: dict[int, tuple] = {}
        self._handles: list = []
        self.states: dict[int, torch.Tensor] = {}
        self.hidden: torch.Tensor | None = None

    def __enter__(self):
        """Attach the hooks."""
        last = max(self._routers)
        for layer, router in self._routers.items():
            self._handles.append(router.register_forward_hook(self._hook(layer, layer == last and not self._whole)))
        return self

    def __exit__(self, *_):
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: int, last: bool):
        def hook(module, inputs, output):
            self._seen[layer] = output
            if len(self._rows):
                self.states[layer] = take(inputs[0], self._rows)
            if last:
                raise _Finished

        return hook

    @torch.inference_mode()
    def run(self, model: nn.Module, token_ids: torch.Tensor, rows: torch.Tensor) -> dict[int, tuple]:
        """(logits, weights, ids) of each wanted layer for `token_ids` (window, position), flattened over both."""
        self._seen, self.states, self._rows = {}, {}, rows
        with suppress(_Finished):
            self.hidden = model(input_ids=token_ids, use_cache=False).last_hidden_state
        if not self._seen:
            raise Problem(f"{type(model).__name__} did not call its routers: its family is not supported.")
        return self._seen


def take(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows (row, hidden) of states (..., hidden), flattened over all axes but the last."""
    return states.reshape(-1, states.shape[-1]).index_select(0, rows.to(states.device, non_blocking=True))


def batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Indices of windows, sorted by length and grouped so that a padded batch holds at most `tokens_per_batch` tokens.

    A window longer than the budget is a batch of its own. `lengths` is (window,) in tokens.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


@dataclass
class Extras:
    """What is kept beside the records: predictions of every token, and router inputs of a sample of tokens.

    `head` turns the last hidden state into logits over the vocabulary; `predicted` (token,) int32 receives the largest
    one's id. `sampled` (sample,) are indices of tokens, in order; `states` (layer, sample, hidden) float32 receives
    what the routers at these tokens received. Each pair may be None.
    """

    head: nn.Module | None = None
    predicted: np.ndarray | None = None
    sampled: np.ndarray | None = None
    states: np.ndarray | None = None

    @classmethod
    def of(cls, model: transformers.PreTrainedModel, layers: int, tokens: int, sampled: np.ndarray | None) -> "Extras":
        """Room for predictions, if the model has its language-model head, and for states, if tokens are sampled."""
        extras = cls(head=model.get_output_embeddings())
        if extras.head is not None:
            extras.predicted = np.empty(tokens, dtype=np.int32)
        if sampled is not None:
            extras.sampled = sampled
            extras.states = np.empty((layers, len(sampled), model.config.hidden_size), dtype=np.float32)
        return extras

    def rows(self, tokens: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """Which of a batch's `rows` (row,), which hold the given `tokens` (row,), are in the sample."""
        wanted = [] if self.sampled is None else rows[np.isin(tokens, self.sampled)]
        return torch.as_tensor(wanted, dtype=torch.int64)

    @torch.inference_mode()
    def keep(self, tokens: np.ndarray, rows: torch.Tensor, capture: RouterCapture) -> None:
        """Keep what a batch shows: its `tokens` (row,) are in `rows` (row,) of the model's output."""
        if self.head is not None:
            parts = take(capture.hidden, rows).split(ROWS_PER_HEAD)
            largest, predicted = map(torch.cat, zip(*(self.head(part).max(dim=-1) for part in parts), strict=True))
            if not bool(torch.isfinite(largest).all()):
                raise Problem(
                    "the logits of the predictions hold NaN or infinity: use another dtype (`dtype: float32`), check "
                    "the model's weights, or set extraction.predictions to false."
                )
            self.predicted[tokens] = predicted.cpu().numpy()
        if capture.states:
            place = np.searchsorted(self.sampled, tokens[np.isin(tokens, self.sampled)])
            for index, states in enumerate(capture.states.values()):
                self.states[index, place] = states.float().cpu().numpy()


def sample_tokens(tokens: int, size: int, seed: int, name: str) -> np.ndarray:
    """Indices of `size` tokens, or all, drawn at random without replacement, in order: (sample,) int64.

    The generator depends on `seed` and the dataset's `name` only.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return np.sort(rng.choice(tokens, min(size, tokens), replace=False))


def sample_of_part(tokens: xr.Dataset, in_dataset: int, size: int, seed: int) -> np.ndarray | None:
    """Which tokens of a part are in the sample of its dataset, as indices into the part: (sample,) int64.

    `tokens` are those of the part (`documents.load_tokens`), of a dataset with `in_dataset` tokens; the sample has
    `size` tokens (see `sample_tokens`), which do not depend on the parts. None for the size 0: nothing is sampled.
    """
    if not size:
        return None
    first = tokens.attrs.get("first_token", 0)
    sampled = sample_tokens(in_dataset, size, seed, tokens.attrs["dataset"])
    return sampled[(first <= sampled) & (sampled < first + tokens.sizes["token"])] - first


def write_records(
    folder: Path,
    model: transformers.PreTrainedModel,
    layers: list[int],
    token_id: np.ndarray,
    window_start: np.ndarray,
    *,
    tokens_per_batch: int,
    records: str = "exact",
    sampled: np.ndarray | None = None,
    first_token: int = 0,
    threads: int = 1,
    attrs: dict | None = None,
    advance: Callable[[int], object] = lambda tokens: None,
) -> None:
    """Run the model over all windows and write the records of its routers into a folder.

    If the model has its language-model head, `predictions.nc` holds `predicted_token(token)`. If tokens are sampled,
    `states.nc` holds `state(layer, sample, hidden)`, what the routers received, and `sampled_token(sample)`, which
    counts from the first token of the dataset.

    Parameters
    ----------
    folder
        Where the files go.
    model
        In evaluation mode.
    layers
        Numbers of layers with routers.
    token_id
        (token,) int.
    window_start
        The offset of each window's first token, in order: (window,) int.
    tokens_per_batch
        Tokens with padding that the model sees at once.
    records
        One of `records.CONTENTS`.
    sampled
        Tokens whose states are kept, counted from the first one here: (sample,) int, or None.
    first_token
        Place of the first token here in its dataset, an attribute of every file.
    threads
        That compress.
    attrs
        Of every file.
    advance
        Is called with numbers of tokens done.
    """
    base, attrs = model.base_model, (attrs or {}) | {"first_token": first_token}
    rule, biases = routing_rule(base.config), selection_biases(base, layers)
    extras = Extras.of(model, len(layers), len(token_id), sampled)
    with RecordWriter(
        folder,
        rule,
        layers,
        tokens=len(token_id),
        windows=len(window_start),
        contents=records,
        attrs=attrs,
        bias={layer: bias.float().cpu().numpy() for layer, bias in biases.items() if bias is not None},
        threads=threads,
    ) as writer:
        for span in extract(base, layers, token_id, window_start, tokens_per_batch=tokens_per_batch, extras=extras):
            writer.write(span.records(records))
            advance(span.tokens)
    if extras.predicted is not None:
        predicted = ("token", extras.predicted, {"long_name": "token id with the largest logit", "units": "1"})
        netcdf.save(xr.Dataset({"predicted_token": predicted}, attrs=attrs), folder / "predictions.nc")
    if extras.states is not None:
        state = (("layer", "sample", "hidden"), extras.states, {"long_name": "router input", "units": "1"})
        places = ("sample", extras.sampled + first_token, {"long_name": "index of the token", "units": "1"})
        kept = xr.Dataset({"state": state, "sampled_token": places}, coords={"layer": layers}, attrs=attrs)
        netcdf.save(kept, folder / "states.nc")


def extract(
    model: transformers.PreTrainedModel,
    layers: list[int],
    token_id: np.ndarray,
    window_start: np.ndarray,
    *,
    tokens_per_batch: int,
    extras: Extras | None = None,
) -> Iterator["Span"]:
    """Run the base model over all windows and yield what its routers did, in spans of consecutive windows.

    Windows are padded on the right and no attention mask is given: in a causal model padding cannot reach earlier
    positions, and its rows are dropped. The routing rule is checked against the modules on the first batch.

    Parameters
    ----------
    model
        In evaluation mode, without a head.
    layers, token_id, window_start, tokens_per_batch
        As those of `write_records`.
    extras
        Is filled on the way.

    Yields
    ------
    Span
        The windows of a pool.

    Raises
    ------
    Problem
        If a router does not follow the rule.
    """
    rule, routers, extras = routing_rule(model.config), find_routers(model), extras or Extras()
    biases = selection_biases(model, layers)
    lengths = np.diff(np.append(window_start, len(token_id)))
    checked = False
    with RouterCapture(routers, layers, whole=extras.head is not None) as capture:
        for pool, _ in blocks(lengths, BATCHES_PER_POOL * tokens_per_batch):
            pool_lengths, pool_starts = lengths[pool], window_start[pool]
            span = Span(rule, biases, pool_lengths)
            for batch in batches(pool_lengths, tokens_per_batch):
                position = np.arange(pool_lengths[batch].max())
                valid = position < pool_lengths[batch][:, None]
                source = np.minimum(pool_starts[batch][:, None] + position, len(token_id) - 1)
                ids = torch.from_numpy(np.where(valid, token_id[source], 0).astype(np.int64))
                tokens, rows = source[valid], np.flatnonzero(valid)
                outputs = capture.run(model, ids.to(model.device), extras.rows(tokens, rows))
                if not checked:
                    for layer, output in outputs.items():
                        check_rule(rule, layer, *output, biases[layer])
                    checked = True
                span.add(batch, torch.from_numpy(rows), outputs)
                extras.keep(tokens, torch.from_numpy(rows), capture)
            yield span


class Span:
    """What the routers did to consecutive windows, as their modules returned it, batch by batch.

    Nothing is copied from the device, sorted or computed before `records` is iterated over, so that another thread can
    do it while the model goes on.
    """

    def __init__(self, rule: RoutingRule, biases: dict[int, torch.Tensor | None], lengths: np.ndarray):
        """An empty span of windows with the given `lengths` in tokens."""
        self._rule, self._biases, self._lengths = rule, biases, lengths
        self._batches: list[np.ndarray] = []
        self._outputs: dict[int, list[tuple]] = {layer: [] for layer in biases}
        self.tokens = int(lengths.sum())

    def add(self, batch: np.ndarray, rows: torch.Tensor, outputs: dict[int, tuple]) -> None:
        """Add a batch: the indices of its windows in the span, which of its rows are tokens, what routers returned."""
        self._batches.append(batch)
        for layer, output in outputs.items():
            keep = rows.to(output[0].device, non_blocking=True)
            self._outputs[layer].append(tuple(tensor.index_select(0, keep) for tensor in output))

    @torch.inference_mode()
    def records(self, contents: str) -> Iterator[tuple[int, Records]]:
        """(layer, records) of all tokens of the span, in their order; `contents` is one of `records.CONTENTS`."""
        starts = np.cumsum(self._lengths) - self._lengths
        windows = np.concatenate(self._batches)
        token_order = np.argsort(np.concatenate([starts[w] + np.arange(self._lengths[w]) for w in windows]))
        window_order = np.argsort(windows)
        for layer, outputs in self._outputs.items():
            parts = [
                make_records(layer, self._rule, self._biases[layer], *output, contents, self._lengths[batch])
                for batch, output in zip(self._batches, outputs, strict=True)
            ]
            outputs.clear()
            yield layer, _join(parts, token_order, window_order)


def batch_tokens(wanted: int | str, config: transformers.PreTrainedConfig, device: torch.device, window: int) -> int:
    """How many tokens a batch may hold: as `wanted`, or, for "auto", as many as a CUDA device has memory free for."""
    return tokens_that_fit(config, torch.cuda.mem_get_info(device)[0], window) if wanted == "auto" else wanted


def tokens_that_fit(config: transformers.PreTrainedConfig, free: int, window: int) -> int:
    """How many tokens a batch may hold with `free` bytes of device memory: a power of two from 256 to 32,768.

    Counts the activations of one layer in float32, twice over: hidden states, what the selected experts receive,
    compute and return, and the attention scores if the model writes them out.
    """
    rule = routing_rule(config)
    inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    values = 8 * config.hidden_size + rule.top_k * (2 * config.hidden_size + 3 * inner) + 8 * rule.experts
    if config._attn_implementation == "eager":
        values += 2 * config.num_attention_heads * window
    return 2 ** min(max(int(math.log2(max(free / (2 * 4 * values), 1))), 8), 15)


def with_less_memory(tokens_per_batch: int, run: Callable[[int], object]) -> None:
    """Call `run` with a number of tokens per batch, and once again with half of it if the device's memory runs out."""
    try:
        run(tokens_per_batch)
    except torch.OutOfMemoryError:
        half = max(1, tokens_per_batch // 2)
        job.log(f"{tokens_per_batch} tokens per batch did not fit into the device's memory: starting again with {half}")
        torch.cuda.empty_cache()
        try:
            run(half)
        except torch.OutOfMemoryError as error:
            raise Problem(
                f"{half} tokens per batch do not fit into the device's memory ({str(error).splitlines()[0]}): lower "
                "extraction.tokens_per_batch.cuda or the model's window, or set gpus: 2."
            ) from error


def check_tokens(model: str, description: dict, window: int, token_id: np.ndarray) -> None:
    """A `Problem` when the tokens do not fit the model that `models.describe` describes."""
    if window > description["context"]:
        raise Problem(
            f"models.{model}.window: {window} tokens are more than the model's context of {description['context']}: "
            "write `context` or a smaller number."
        )
    if token_id.max() >= description["vocabulary"]:
        raise Problem(
            f"models.{model}: token id {token_id.max()} is beyond the model's vocabulary of "
            f"{description['vocabulary']}: its tokenizer belongs to another model."
        )


def make_records(
    layer: int,
    rule: RoutingRule,
    bias: torch.Tensor | None,
    logits: torch.Tensor,
    weights: torch.Tensor,
    selected: torch.Tensor,
    contents: str,
    window_lengths: np.ndarray,
) -> Records:
    """The records of a router's raw output for the tokens of whole windows, which follow one another.

    Parameters
    ----------
    layer
        Number of the layer.
    rule
        Of the model.
    bias
        Added to scores to select, (expert,), or None.
    logits
        (token, expert).
    weights, selected
        As the module returned them: (token, rank).
    contents
        One of `records.CONTENTS`.
    window_lengths
        Tokens of each window: (window,) int.

    Returns
    -------
    Records

    Raises
    ------
    Problem
        If a logit is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise Problem(
            f"layer {layer}: the router logits hold NaN or infinity: use another dtype (`dtype: float32`) or check the "
            "model's weights."
        )
    order = weights.argsort(dim=-1, descending=True, stable=True)
    selected = selected.gather(-1, order)
    values, totals = {}, {}
    if contents == "compact":
        probability = rule.probability(logits)
        values |= {"routing_weight": weights.gather(-1, order)} | rule.scalars(logits, selected, bias, probability)
        totals = _totals(logits, probability, window_lengths)
    else:
        values["router_logits"] = logits
    values["selected_expert"] = selected.to(torch.uint8 if rule.experts <= 256 else torch.int32)
    on_host = {name: values[name].cpu() for name in contents_of(rule, contents)}
    per_token = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for name, tensor in on_host.items()
    }
    per_token["selected_expert"] = per_token["selected_expert"].astype(expert_dtype(rule.experts))
    return Records(per_token, totals)


def _totals(logits: torch.Tensor, probability: torch.Tensor, window_lengths: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of `TOTALS` for the tokens of whole windows, which follow one another."""
    lengths = torch.from_numpy(window_lengths).to(logits.device)
    return {
        "probability_sum": torch.segment_reduce(probability.double(), "sum", lengths=lengths).float().cpu().numpy(),
        "expert_logit_histogram": _histogram(logits.float(), bins.LOGIT_EDGES),
        "expert_probability_histogram": _histogram(probability.clamp(min=1e-30).log10(), bins.PROBABILITY_EDGES),
    }


def _histogram(values: torch.Tensor, edges: np.ndarray) -> np.ndarray:
    """Counts (expert, bin) of values (token, expert) in equal bins; what lies beyond the edges is in the outer ones."""
    count, experts = len(edges) - 1, values.shape[1]
    position = (values - float(edges[0])) * (count / float(edges[-1] - edges[0]))
    key = position.clamp_(0, count - 1).int() + count * torch.arange(experts, dtype=torch.int32, device=values.device)
    return torch.bincount(key.ravel(), minlength=experts * count).view(experts, count).cpu().numpy()


def _join(parts: list[Records], token_order: np.ndarray, window_order: np.ndarray) -> Records:
    """One Records of the parts of a span, with tokens and windows in order."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([part.per_token[name] for part in parts])[token_order]

    first = parts[0]
    totals = {name: sum(part.totals[name] for part in parts) for name in first.totals if name.endswith("histogram")}
    if first.totals:
        totals["probability_sum"] = np.concatenate([part.totals["probability_sum"] for part in parts])[window_order]
    return Records({name: joined(name) for name in first.per_token}, totals)
