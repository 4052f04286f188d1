"""A model that is run on single texts, as it is and with a change that means nothing or little."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import transformers

from gatebook.chapters.reach import AGAIN, DTYPE, KERNEL, NOISE
from gatebook.chapters.reach.measure import Plan
from gatebook.problem import Problem
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.routing.following import complete
from gatebook.routing.records import float32
from gatebook.routing.routers import selection_biases
from gatebook.routing.rule import RoutingRule
from gatebook.run import job

KERNELS = ("grouped_mm", "eager", "batched_mm")
"""Implementations of the experts that any device has, the one that is tried first in front."""


class Change(NamedTuple):
    """A change of the model: its name, settings of loading in place of the model's, and the noise on its weights."""

    name: str
    settings: Mapping[str, str]
    noise: float = 0


def changes(computation: Mapping[str, str], noise: Sequence[float]) -> list[Change]:
    """All changes of a model that computes as `models.computation` says.

    It is run again as it is, in bfloat16 (in float32 if that is its own dtype), with another implementation of the
    experts, and with Gaussian noise on its weights.
    """
    dtype = "float32" if computation["dtype"] == "bfloat16" else "bfloat16"
    kernel = next(each for each in KERNELS if each != computation["experts"])
    found = [Change(AGAIN, {}), Change(DTYPE, {"dtype": dtype}), Change(KERNEL, {"experts": kernel})]
    return found + [Change(NOISE.format(100 * share), {}, share) for share in noise]


@torch.no_grad()
def add_noise(model: torch.nn.Module, share: float, seed: int) -> None:
    """Add Gaussian noise to all weights, whose standard deviation is `share` times that of the values of each tensor.

    Raises a `Problem` for weights that are not in the memory of a device.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.is_meta:
            raise Problem(
                f"reach.noise: the weights {name} are not in the GPUs' memory: set gpus higher, or noise: []."
            )
        scale = share * weight.float().std(correction=0)
        weight += (torch.randn(weight.shape, generator=generator).to(weight.device) * scale).to(weight.dtype)


class Loader:
    """Loads the model of a folder as an extraction does, or with a change."""

    def __init__(self, folder: str, settings: Mapping, last_layer: int, seed: int):
        """Nothing is loaded yet. `settings` are those of the model in the config, `seed` that of the noise."""
        self._folder, self._last_layer, self._seed = folder, last_layer, seed
        self.device = models.choose_device(settings["device"])
        self._settings = {name: value for name, value in settings.items() if name != "device"}

    def load(self, change: Change | None = None) -> transformers.PreTrainedModel:
        """The base model; a `Problem` if it does not run with the change."""
        settings = self._settings | (change.settings if change else {})
        model = models.load(self._folder, device=self.device, last_layer=self._last_layer, **settings)
        wanted = change.settings.get("experts") if change else None
        if wanted and (wanted != model.config._experts_implementation or not model._can_set_experts_implementation()):
            raise Problem(f"{type(model).__name__} has one implementation of its experts only.")
        if change and change.noise:
            add_noise(model, change.noise, self._seed)
        return model


def selected(
    model: transformers.PreTrainedModel,
    layers: list[int],
    texts: Sequence[np.ndarray],
    tokens_per_batch: int,
    *,
    margins: bool = False,
    advance: Callable[[int], object] = lambda tokens: None,
) -> tuple[np.ndarray, np.ndarray]:
    """What the routers of a model do to texts, each of which it sees alone, from its first token on.

    Texts are sorted by their lengths and run as an extraction runs windows: in a causal model what pads a shorter one
    on the right reaches none of its tokens.

    Parameters
    ----------
    model
        In evaluation mode, without a head.
    layers
        Numbers of layers with routers.
    texts
        Token ids, (position,) int each.
    tokens_per_batch
        That it sees at once, or fewer if the memory of the device is too small.
    margins
        Whether boundary margins are wanted.
    advance
        Is called with numbers of tokens done.

    Returns
    -------
    sets : numpy.ndarray
        The selected experts of all tokens, one text after another: (layer, token, rank) int64.
    margin : numpy.ndarray
        (layer, token) float32, NaN unless it is wanted.
    """
    ids, length = np.concatenate(texts), np.array([len(text) for text in texts])
    rule, biases = routing_rule(model.config), selection_biases(model, layers)
    found = np.zeros((len(layers), len(ids), rule.top_k), np.int64)
    margin = np.full(found.shape[:2], np.nan, np.float32)

    def run(tokens_per_batch: int) -> None:
        options = {"tokens_per_batch": tokens_per_batch}
        for batch in extraction.extract(model, layers, ids, np.cumsum(length) - length, **options):
            made = batch.records()
            found[:, made.tokens] = made.per_token["selected_expert"]
            if margins:
                of_layers = (_margin(made.per_token, index, rule, biases[layer]) for index, layer in enumerate(layers))
                margin[:, made.tokens] = list(of_layers)
            advance(len(made.tokens))

    extraction.with_less_memory(tokens_per_batch, run)
    return found, margin


def _margin(records: Mapping[str, np.ndarray], index: int, rule: RoutingRule, bias: torch.Tensor | None) -> np.ndarray:
    """The boundary margin of each token of a batch in one layer: (token,) float32."""
    one = {
        "router_logits": float32(records["router_logits"][index]),
        "selected_expert": records["selected_expert"][index],
    }
    return complete(one, rule, None if bias is None else bias.float().cpu().numpy())["boundary_margin"]


class Rerun(NamedTuple):
    """What a model did to the texts of a plan, as `measure.Routed` has it, and how it computed: `attrs`."""

    short: dict[int, np.ndarray]
    unrelated: dict[int, np.ndarray]
    changed: dict[str, np.ndarray]
    margin: np.ndarray
    attrs: dict[str, str]


def run(
    loader: Loader,
    planned: Plan,
    layers: list[int],
    *,
    noise: Sequence[float],
    tokens_per_batch: Mapping[str, int | str],
) -> Rerun:
    """Run a plan: all its texts as the model is, and its windows with every change.

    Parameters
    ----------
    loader
        Of the model.
    planned
        See `measure.plan`.
    layers
        Numbers of layers with routers.
    noise
        The setting of the chapter.
    tokens_per_batch
        By kind of device, as in the config.

    Returns
    -------
    Rerun
        Without a change that the model does not run with; attributes say which and why.
    """
    if not len(planned.place):
        return Rerun({}, {}, {}, np.zeros((len(layers), 0), np.float32), {"not_run": "no token has so much text"})
    model, texts = loader.load(), [*planned.short.values(), *planned.unrelated.values()]
    computed = models.computation(model, loader.device)
    made = changes(computed, noise)
    window = max(map(len, (*planned.windows, *(text for each in texts for text in each))))
    batch = extraction.batch_tokens(tokens_per_batch[loader.device.type], model.config, loader.device, window)
    in_windows = sum(map(len, planned.windows))
    total = sum(len(text) for each in texts for text in each) + in_windows * len(made)
    attrs = {"dtype": computed["dtype"], "kernel": computed["experts"], "not_run": ""}
    attrs |= {"other_dtype": made[1].settings["dtype"], "other_kernel": made[2].settings["experts"]}
    with job.progress(total=total, unit=" tokens", description="texts") as bar:

        def ends(texts: list[np.ndarray]) -> np.ndarray:
            sets, _ = selected(model, layers, texts, batch, advance=bar.update)
            return sets[:, np.cumsum([len(text) for text in texts]) - 1]

        short, unrelated = (
            {length: ends(each) for length, each in kind.items()} for kind in (planned.short, planned.unrelated)
        )
        changed, margin = {}, None
        for change in made:
            if change.name != AGAIN:
                model = None  # or else two would be in memory
                try:
                    model = loader.load(change)
                except Problem as problem:
                    if change.name != KERNEL:
                        raise
                    attrs["not_run"] = str(problem)
                    job.log(f"no {change.settings['experts']}: {problem}")
                    continue
            sets, seen = selected(model, layers, planned.windows, batch, margins=margin is None, advance=bar.update)
            changed[change.name] = sets[:, planned.within]
            margin = seen[:, planned.within] if margin is None else margin
    return Rerun(short, unrelated, changed, margin, attrs)
