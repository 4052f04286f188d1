"""Extraction: one forward pass that records what every router received, decided and returned."""

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
import transformers
import xarray as xr
from torch import nn

from gatebook.files import netcdf
from gatebook.inputs.windows import blocks
from gatebook.problem import Problem
from gatebook.routing import bins
from gatebook.routing.families import gives_logits_alone, routing_rule
from gatebook.routing.highest import FILE as HIGHEST
from gatebook.routing.highest import Highest
from gatebook.routing.models import expert_matrices
from gatebook.routing.records import (
    PER_TOKEN,
    STATES,
    TOTALS,
    Records,
    RecordWriter,
    States,
    contents_of,
    expert_dtype,
    float32,
)
from gatebook.routing.routers import check_sum, find_blocks, selection_biases, skeleton, watch
from gatebook.routing.rule import RoutingRule, check_rule
from gatebook.run import job

BATCHES_PER_POOL, BYTES_PER_POOL = 8, 1 << 30
"""A pool is a block of windows, sorted inside for batches: so many batches, but no more bytes of router logits unless a
batch has more. Two pools are in memory at most."""
ROWS_PER_HEAD = 1024
SAMPLE = "sampled_input"
"""The name of what routers receive at the tokens of the sample, beside those of `records.STATES`."""


class Tally(Protocol):
    """What adds up a layer's records (see `study.counting.Tally`)."""

    def add(self, record: dict[str, np.ndarray]) -> None:
        """Add the records of the next tokens."""

    def result(self, attrs: dict, totals: dict[str, np.ndarray]) -> xr.Dataset:
        """What they add up to."""


class _Finished(Exception):
    """Raised by the last wanted router: nothing after it needs to be computed."""


class RouterCapture:
    """Forward hooks that keep what the routers of the wanted layers decide, and stop the model at the last of them.

    `states` holds, by name and layer, rows of what `watched` says: (row, hidden). With `whole` the model runs to its
    end and `hidden` is its last hidden state (window, position, hidden).
    """

    def __init__(
        self,
        blocks: dict[int, nn.Module],
        layers: list[int],
        whole: bool = False,
        watched: dict[str, tuple[str, list[int]]] | None = None,
        highest: Highest | None = None,
    ):
        """Watch `blocks` (by layer index) at `layers`, and what `watched` names: one of `records.STATES` at layers.

        `highest` is given what the routers did.
        """
        self._highest = highest
        self._blocks = {layer: blocks[layer] for layer in layers}
        self._watched = watched or {}
        last = max(layers)
        self._returned = {layer for what, on in self._watched.values() if what == "block_output" for layer in on}
        self._end = None if whole else ("block_output" if last in self._returned else "router_input", last)
        self._seen: dict[int, tuple] = {}
        self._handles: list = []
        self.states: dict[str, dict[int, torch.Tensor]] = {}
        self.hidden: torch.Tensor | None = None

    def __enter__(self):
        """Attach the hooks."""
        for layer, block in self._blocks.items():
            self._handles += watch(block, partial(self._decided, layer))
            if layer in self._returned:
                self._handles.append(block.register_forward_hook(partial(self._output, layer)))
        return self

    def __exit__(self, *_):
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _decided(self, layer: int, states: torch.Tensor, decision: tuple) -> None:
        self._seen[layer] = decision
        if self._highest:
            places = (_to(states.device, each) for each in self._places)
            self._highest.add(layer, states.reshape(-1, states.shape[-1]), *decision[1:], *places)
        self._keep("router_input", layer, states)

    def _output(self, layer: int, module: nn.Module, given: tuple, output: object) -> None:
        self._keep("block_output", layer, output[0] if isinstance(output, tuple) else output)

    def _keep(self, what: str, layer: int, states: torch.Tensor) -> None:
        for name, (wanted, layers) in self._watched.items():
            if wanted == what and layer in layers:
                self.states.setdefault(name, {})[layer] = take(states, self._rows[name])
        if (what, layer) == self._end:
            raise _Finished

    @torch.inference_mode()
    def run(
        self,
        model: nn.Module,
        token_ids: torch.Tensor,
        rows: dict[str, torch.Tensor],
        places: tuple[torch.Tensor, torch.Tensor],
    ) -> dict[int, tuple]:
        """(logits, weights, ids) of each wanted layer for `token_ids` (window, position), flattened over both.

        `rows` (row,), by name, are those of `states`; `places` says which rows are tokens, and which tokens they are.
        """
        self._seen, self.states, self._rows, self._places = {}, {}, rows, places
        with suppress(_Finished):
            self.hidden = model(input_ids=token_ids, use_cache=False).last_hidden_state
        if not self._seen:
            raise Problem(f"{type(model).__name__} did not call its routers: its family is not supported.")
        return self._seen


def take(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows (row, hidden) of states (..., hidden), flattened over all axes but the last."""
    return states.reshape(-1, states.shape[-1]).index_select(0, _to(states.device, rows))


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
    what the routers at these tokens received. Each pair may be None, and so may `highest`.
    """

    head: nn.Module | None = None
    predicted: np.ndarray | None = None
    sampled: np.ndarray | None = None
    states: np.ndarray | None = None
    highest: Highest | None = None

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

    @torch.inference_mode()
    def seen(self, rows: torch.Tensor, capture: RouterCapture) -> dict[str, torch.Tensor]:
        """What a batch shows, on the device: predictions of its `rows` (row,)."""
        found = {}
        if self.head is not None:
            parts = take(capture.hidden, rows).split(ROWS_PER_HEAD)
            largest, found["predicted"] = map(
                torch.cat, zip(*(self.head(part).max(dim=-1) for part in parts), strict=True)
            )
            found["known"] = largest.isfinite().all()
        return found

    def keep(self, tokens: np.ndarray, found: dict[str, np.ndarray]) -> None:
        """Put what a batch of these `tokens` (row,) showed in its place."""
        if "predicted" in found:
            if not found["known"]:
                raise Problem(
                    "the logits of the predictions hold NaN or infinity: use another dtype (`dtype: float32`), check "
                    "the model's weights, or set extraction.predictions to false."
                )
            self.predicted[tokens] = found["predicted"]
        if SAMPLE in found:
            place = np.searchsorted(self.sampled, tokens[np.isin(tokens, self.sampled)])
            self.states[:, place] = float32(found[SAMPLE])


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


def wanted_states(
    wanted: dict | None, layers: list[int], tokens: xr.Dataset, in_dataset: int, seed: int
) -> States | None:
    """The hidden states that the key extraction.states wants of a part, None if it is not set.

    Parameters
    ----------
    wanted
        `what`, `layers` and `tokens`, as the config has them.
    layers
        Those with records.
    tokens, in_dataset, seed
        As those of `sample_of_part`.

    Returns
    -------
    States or None

    Raises
    ------
    Problem
        If a layer has no records.
    """
    if not wanted:
        return None
    chosen = layers if wanted["layers"] == "all" else sorted(wanted["layers"])
    if missing := sorted(set(chosen) - set(layers)):
        raise Problem(f"extraction.states.layers: layer {missing[0]} has no records: choose from {layers}.")
    every = wanted["tokens"] == "all"
    kept = np.arange(tokens.sizes["token"]) if every else sample_of_part(tokens, in_dataset, wanted["tokens"], seed)
    return States(wanted["what"], chosen, kept) if len(kept) else None


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
    per_expert: int = 0,
    first_token: int = 0,
    threads: int = 1,
    tally: Callable[[RoutingRule, np.ndarray | None], Tally] | None = None,
    states: States | None = None,
    attrs: dict | None = None,
    advance: Callable[[int], object] = lambda tokens: None,
) -> None:
    """Run the model over all windows and write the records of its routers into a folder.

    If the model has its language-model head, `predictions.nc` holds `predicted_token(token)`. If tokens are sampled,
    `states.nc` holds `state(layer, sample, hidden)`, what the routers received, and `sampled_token(sample)`, which
    counts from the first token of the dataset. `highest.nc` holds what `Highest.result` gives, unless `per_expert` is
    0. With `tally`, `tally.nc` holds the tally of the records, taken on the way from the values as they are stored.

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
    per_expert
        So many tokens of each expert with the highest weights, whose states are kept.
    first_token
        Place of the first token here in its dataset, an attribute of every file.
    threads
        That compress.
    tally
        What makes an empty tally of a layer from the rule and the selection bias (expert,) or None, such as
        `study.counting.Tally` of the tokens.
    states
        Which hidden states are kept in the folder `states`, see `States.writer`; their tokens are counted from the
        first one here, their layers are some of `layers`.
    attrs
        Of every file.
    advance
        Is called with numbers of tokens done.
    """
    base, attrs = model.base_model, (attrs or {}) | {"first_token": first_token}
    rule, biases = routing_rule(base.config), selection_biases(base, layers)
    biases = {layer: bias.float().cpu().numpy() for layer, bias in biases.items() if bias is not None}
    tallies = {layer: tally(rule, biases.get(layer)) for layer in layers} if tally else {}
    extras = Extras.of(model, len(layers), len(token_id), sampled)
    extras.highest = Highest(per_expert, rule.experts) if per_expert else None
    with ExitStack() as writers:
        if states:
            (folder / "states").mkdir()
            hidden = states.writer(folder / "states", base.config.hidden_size, first_token, attrs, threads)
            writers.enter_context(hidden)
        writer = writers.enter_context(
            RecordWriter(
                folder,
                rule,
                layers,
                tokens=len(token_id),
                windows=len(window_start),
                contents=records,
                attrs=attrs,
                bias=biases,
                threads=threads,
                tallies=tallies,
            )
        )
        options = {"tokens_per_batch": tokens_per_batch, "contents": records, "extras": extras, "states": states}
        for batch in extract(base, layers, token_id, window_start, **options):
            writer.write(batch.records)
            if states:
                hidden.write(batch.states)
            advance(len(batch.tokens))
    if tallies:
        results = (
            each.result(attrs | {"layer": layer}, {name: values[index] for name, values in writer.totals.items()})
            for index, (layer, each) in enumerate(tallies.items())
        )
        netcdf.save_parts(results, folder / "tally.nc", along="layer")
    if extras.predicted is not None:
        predicted = ("token", extras.predicted, {"long_name": "token id with the largest logit", "units": "1"})
        netcdf.save(xr.Dataset({"predicted_token": predicted}, attrs=attrs), folder / "predictions.nc")
    if extras.states is not None:
        state = (("layer", "sample", "hidden"), extras.states, {"long_name": "router input", "units": "1"})
        places = ("sample", extras.sampled + first_token, {"long_name": "index of the token", "units": "1"})
        kept = xr.Dataset({"state": state, "sampled_token": places}, coords={"layer": layers}, attrs=attrs)
        netcdf.save(kept, folder / "states.nc")
    if extras.highest is not None:
        netcdf.save_parts(extras.highest.result(first_token, attrs), folder / HIGHEST, along="layer")


def extract(
    model: transformers.PreTrainedModel,
    layers: list[int],
    token_id: np.ndarray,
    window_start: np.ndarray,
    *,
    tokens_per_batch: int,
    contents: str = "exact",
    extras: Extras | None = None,
    states: States | None = None,
) -> Iterator["Batch"]:
    """Run the base model over all windows and yield what its routers did, batch by batch.

    Windows are padded on the right and no attention mask is given: in a causal model padding cannot reach earlier
    positions, and its rows are dropped. The routing rule is checked against the modules on the first batch, or before
    it if they give logits alone; after it nothing here waits for the device.

    Parameters
    ----------
    model
        In evaluation mode, without a head.
    layers, token_id, window_start, tokens_per_batch
        As those of `write_records`.
    contents
        One of `records.CONTENTS`.
    extras
        Is filled when the records of the batches are asked for.
    states
        Which hidden states come with the batches.

    Yields
    ------
    Batch

    Raises
    ------
    Problem
        If a router does not follow the rule.
    """
    rule, layer_blocks, extras = routing_rule(model.config), find_blocks(model), extras or Extras()
    biases = selection_biases(model, layers)
    lengths = np.diff(np.append(window_start, len(token_id)))
    largest = BYTES_PER_POOL // (len(layers) * rule.experts * model.dtype.itemsize)
    if checked := gives_logits_alone(model.config):
        for layer in layers:
            check_sum(rule, layer, layer_blocks[layer])
    watched = {name: (name, states.layers) for name in states.what} if states else {}
    kept = dict.fromkeys(watched, states.tokens) if states else {}
    if extras.sampled is not None:
        watched[SAMPLE], kept[SAMPLE] = ("router_input", layers), extras.sampled
    whole = extras.head is not None
    with RouterCapture(layer_blocks, layers, whole=whole, watched=watched, highest=extras.highest) as capture:
        for pool, _ in blocks(lengths, min(BATCHES_PER_POOL * tokens_per_batch, max(tokens_per_batch, largest))):
            in_pool = list(batches(lengths[pool], tokens_per_batch))
            for batch in in_pool:
                windows = batch + pool.start
                position = np.arange(lengths[windows].max())
                valid = position < lengths[windows][:, None]
                source = np.minimum(window_start[windows][:, None] + position, len(token_id) - 1)
                ids = torch.from_numpy(np.where(valid, token_id[source], 0).astype(np.int64))
                in_order = np.argsort(source[valid])
                tokens, rows = source[valid][in_order], np.flatnonzero(valid)[in_order]
                wanted = {name: torch.from_numpy(rows[np.isin(tokens, chosen)]) for name, chosen in kept.items()}
                places = torch.from_numpy(rows), torch.from_numpy(tokens)
                outputs = capture.run(model, _to(model.device, ids), wanted, places)
                if not checked:
                    for layer, output in outputs.items():
                        check_rule(rule, layer, *output, biases[layer])
                    checked = True
                rows, windows = places[0], np.sort(windows)
                made = _made(rule, biases, outputs, rows, contents, lengths[windows]) | extras.seen(rows, capture)
                made |= {name: _stacked(list(found.values())) for name, found in capture.states.items()}
                samples = np.flatnonzero(np.isin(states.tokens, tokens)) if states else np.array([], dtype=np.int64)
                arrival = Arrival(made)
                yield Batch(layers, tokens, windows, samples, arrival, extras, complete=batch is in_pool[-1])


@torch.inference_mode()
def _made(
    rule: RoutingRule,
    biases: dict[int, torch.Tensor | None],
    outputs: dict[int, tuple],
    rows: torch.Tensor,
    contents: str,
    window_lengths: np.ndarray,
) -> dict[str, torch.Tensor]:
    """The records of all layers for a batch, on the device.

    Parameters
    ----------
    rule
        Of the model.
    biases
        By layer, added to scores to select, (expert,), or None.
    outputs
        By layer, what the module returned: logits, weights, ids, each with a row for every position of the batch.
    rows
        Which of them are tokens, in their order: (row,).
    contents
        One of `records.CONTENTS`.
    window_lengths
        Tokens of each window, in the same order: (window,) int.

    Returns
    -------
    dict[str, torch.Tensor]
        By name, with the layers as first axis, and `finite` (layer,): whether all router logits are.
    """
    keep, lengths, made = {}, {}, []
    for layer, bias in biases.items():
        output = outputs[layer]
        device = output[0].device
        if device not in keep:
            keep[device], lengths[device] = _to(device, rows), _to(device, torch.from_numpy(window_lengths))
        logits, weights, selected = (tensor.index_select(0, keep[device]) for tensor in output)
        made.append(make_records(rule, bias, logits, weights, selected, contents, lengths[device]))
    return {name: _stacked([each[name] for each in made]) for name in made[0]}


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Tensors of the layers as one, on the device of the last layer."""
    return torch.stack([tensor.to(tensors[-1].device, non_blocking=True) for tensor in tensors])


def _to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the host on a device; only a copy from pinned memory does not wait for what the device is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the memory of the host; from a GPU it goes into pinned memory, and nobody waits for it here."""
    return tensor.to("cpu", non_blocking=True)


class Arrival:
    """Tensors of one device on their way to the host, one copy for each, beside what the device computes next."""

    _streams: ClassVar[dict[torch.device, torch.cuda.Stream]] = {}

    def __init__(self, tensors: dict[str, torch.Tensor]):
        """Let the copies begin."""
        device, self._arrived = next(iter(tensors.values())).device, None
        if device.type != "cuda":
            self._copies = {name: to_host(tensor) for name, tensor in tensors.items()}
            return
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._copies = {name: to_host(tensor) for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.record_stream(stream)
        self._arrived = stream.record_event()

    def arrays(self) -> dict[str, np.ndarray]:
        """Wait for the copies; the values by name, bfloat16 as its bits (uint16)."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {
            name: (copy.view(torch.uint16) if copy.dtype is torch.bfloat16 else copy).numpy()
            for name, copy in self._copies.items()
        }


@dataclass(frozen=True)
class Batch:
    """What the routers of the `layers` did to a batch, on its way to the host.

    `tokens` (row,) and `windows` (window,) are their places in the dataset, in order; `samples` (sample,) are those of
    its tokens whose hidden states are kept among all of these. `complete` says whether the batch is the last one of its
    pool.
    """

    layers: list[int]
    tokens: np.ndarray
    windows: np.ndarray
    samples: np.ndarray
    arrival: Arrival
    extras: Extras
    complete: bool

    def records(self) -> Records:
        """The records, as soon as they have arrived; the extras are kept. A `Problem` if a logit is not finite."""
        arrays = self.arrival.arrays()
        if not (finite := arrays.pop("finite")).all():
            raise Problem(
                f"layer {self.layers[int(finite.argmin())]}: the router logits hold NaN or infinity: use another dtype "
                "(`dtype: float32`) or check the model's weights."
            )
        self.extras.keep(self.tokens, arrays)
        totals = {name: arrays[name] for name in TOTALS if name in arrays}
        per_token = {name: arrays[name] for name in PER_TOKEN if name in arrays}
        return Records(self.tokens, self.windows, per_token, totals, self.complete)

    def states(self) -> Records:
        """The hidden states that are kept, as soon as they have arrived."""
        arrays = {name: values for name, values in self.arrival.arrays().items() if name in STATES}
        return Records(self.samples, self.windows[:0], arrays, {}, self.complete)


def batch_tokens(wanted: int | str, config: transformers.PreTrainedConfig, device: torch.device, window: int) -> int:
    """How many tokens a batch may hold: as `wanted`, or, for "auto", as many as a CUDA device has memory free for."""
    return tokens_that_fit(config, torch.cuda.mem_get_info(device)[0], window) if wanted == "auto" else wanted


def tokens_that_fit(config: transformers.PreTrainedConfig, free: int, window: int) -> int:
    """How many tokens a batch may hold with `free` bytes of device memory: a power of two from 256 to 16,384.

    Counts the activations of one layer in float32, twice over: hidden states, what the selected experts receive,
    compute and return, and the attention scores if the model writes them out.
    """
    rule, block = routing_rule(config), next(iter(find_blocks(skeleton(config)).values()))
    inner = expert_matrices(block).up.shape[1]
    values = 8 * config.hidden_size + rule.top_k * (2 * config.hidden_size + 3 * inner) + 8 * rule.experts
    if config._attn_implementation == "eager":
        values += 2 * config.num_attention_heads * window
    return 2 ** min(max(int(math.log2(max(free / (2 * 4 * values), 1))), 8), 14)


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
    rule: RoutingRule,
    bias: torch.Tensor | None,
    logits: torch.Tensor,
    weights: torch.Tensor,
    selected: torch.Tensor,
    contents: str,
    window_lengths: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The records of a router's raw output for the tokens of whole windows, which follow one another; nothing waits.

    Parameters
    ----------
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
        Tokens of each window: (window,) int64.

    Returns
    -------
    dict[str, torch.Tensor]
        The variables of `PER_TOKEN` that these contents hold, `TOTALS` in compact ones, and `finite`, one flag.
    """
    order = weights.argsort(dim=-1, descending=True, stable=True)
    selected = selected.gather(-1, order)
    values = {"router_logits": logits, "finite": torch.stack(logits.aminmax()).isfinite().all()}
    if contents == "compact":
        probability = rule.probability(logits)
        values |= {"routing_weight": weights.gather(-1, order)} | rule.scalars(logits, selected, bias, probability)
        values |= _totals(logits, probability, window_lengths)
    values["selected_expert"] = selected.to(getattr(torch, expert_dtype(rule.experts).__name__))
    wanted = ["finite", *contents_of(rule, contents), *(TOTALS if contents == "compact" else ())]
    return {name: values[name] for name in wanted}


def _totals(logits: torch.Tensor, probability: torch.Tensor, window_lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """The arrays of `TOTALS` for the tokens of whole windows, which follow one another."""
    # Unsafe only means that nobody waits to see whether the lengths add up, which they do.
    sums = torch.segment_reduce(probability.double(), "sum", lengths=window_lengths, unsafe=True)
    return {
        "probability_sum": sums.float(),
        "expert_logit_histogram": _histogram(logits.float(), bins.LOGIT_EDGES),
        "expert_probability_histogram": _histogram(probability.clamp(min=1e-30).log10(), bins.PROBABILITY_EDGES),
    }


def _histogram(values: torch.Tensor, edges: np.ndarray) -> torch.Tensor:
    """Counts (expert, bin) of values (token, expert) in equal bins; what lies beyond the edges is in the outer ones."""
    count, experts = len(edges) - 1, values.shape[1]
    position = (values - float(edges[0])) * (count / float(edges[-1] - edges[0]))
    key = position.clamp_(0, count - 1).int() + count * torch.arange(experts, dtype=torch.int32, device=values.device)
    return occurrences(key.ravel(), experts * count).view(experts, count)


def occurrences(key: torch.Tensor, size: int) -> torch.Tensor:
    """How often each of the numbers below `size` occurs in `key`: (size,) int64."""
    if key.is_cpu:
        return torch.bincount(key, minlength=size)
    # A GPU's bincount makes the host wait to learn the largest key.
    return torch.zeros(size, dtype=torch.int64, device=key.device).index_add_(
        0, key, torch.ones_like(key, dtype=torch.int64)
    )
