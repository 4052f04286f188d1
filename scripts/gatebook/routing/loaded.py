"""A model in memory that extracts one part of a dataset after another."""

import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import transformers
import xarray as xr

from gatebook.files import atomic
from gatebook.files.origin import identity
from gatebook.files.sizes import format_bytes
from gatebook.inputs.documents import describe_dataset, load_tokens
from gatebook.routing import extraction, models, records
from gatebook.routing.families import routing_rule
from gatebook.routing.rule import RoutingRule
from gatebook.run import job


class LoadedModel:
    """The model of a folder, loaded when its first part is extracted."""

    def __init__(
        self,
        folder: str,
        description: dict,
        settings: Mapping,
        wanted: Mapping,
        tally: Callable[[xr.Dataset, RoutingRule, np.ndarray | None], extraction.Tally],
        tally_path: Callable[[Path], Path],
    ):
        """A model that is not loaded yet.

        Parameters
        ----------
        folder
            In the hub's layout.
        description
            That of `models.describe`.
        settings
            The model's in the config.
        wanted
            The section `extraction` of the config.
        tally
            What makes an empty tally of a layer from tokens, the routing rule and the selection bias (expert,).
        tally_path
            Where the tally of a folder of records goes.
        """
        self._folder, self._description, self._settings, self._wanted = folder, description, settings, wanted
        self._tally, self._tally_path = tally, tally_path
        self._device = models.choose_device(settings["device"])
        self._batch: int | None = None
        on_host = self._device.type == "cpu"
        torch.set_num_threads(wanted["threads"] if on_host else 1)  # else each thread that tallies would start as many

    def extract(self, tokens_file: Path, place: dict[str, int], folder: Path) -> tuple[float, str]:
        """Write the records of one part into `folder`, whole or not at all.

        `tokens_file` holds the tokens of the part's dataset, `place` says which part it is (`parts.place_of`). Returns
        the seconds that this took, without loading, and a line for the log.
        """
        description, wanted, tokens = self._description, self._wanted, load_tokens(tokens_file, **place)
        layers, total, window = description["layers"], tokens.sizes["token"], tokens.attrs["window"]
        extraction.check_tokens(description["model"], description, window, tokens["token_id"].values)
        model = self._model  # loaded now, if it was not
        rule, computation = routing_rule(model.config), models.computation(model, self._device)
        needed = records.largest_bytes(rule, wanted["records"], computation["dtype"], total, len(layers))
        in_dataset = describe_dataset(tokens_file)["tokens"]
        seed, per_expert = wanted["sample"]["seed"], wanted["sample"].get("per_expert", 0)
        sampled = extraction.sample_of_part(tokens, in_dataset, wanted["sample"]["size"], seed)
        states = extraction.wanted_states(wanted.get("states"), layers, tokens, in_dataset, seed)
        if states:
            size = states.largest_bytes(model.config.hidden_size)
            job.log(f"hidden states of {len(states.tokens)} tokens: at most {format_bytes(size)}")
            needed += size
        needed += 2 * len(layers) * rule.experts * per_expert * model.config.hidden_size  # as of bfloat16
        remedy = "lower limits.tokens of the dataset, or set extraction.records to compact"
        atomic.check_room(folder, needed, remedy)
        began = time.perf_counter()
        bar = job.progress(total=total, unit=" tokens", description=f"route {tokens.attrs['dataset']}")

        def run(tokens_per_batch: int) -> None:
            """One extraction, whole or not at all."""
            bar.reset()
            computed = computation | {"gpus": self._settings["gpus"], "tokens_per_batch": tokens_per_batch}
            attrs = {
                "routing_rule": rule.as_json(dense_layers=description["dense_layers"]),
                "computation": json.dumps(computed, sort_keys=True),
            }
            with atomic.atomic_directory(folder) as unfinished:
                extraction.write_records(
                    unfinished,
                    model,
                    layers,
                    tokens["token_id"].values,
                    np.flatnonzero(tokens["position"].values == 0),
                    tokens_per_batch=tokens_per_batch,
                    records=wanted["records"],
                    sampled=sampled,
                    per_expert=per_expert,
                    states=states,
                    tally=partial(self._tally, tokens),
                    first_token=tokens.attrs.get("first_token", 0),
                    threads=wanted["threads"],
                    advance=bar.update,
                    attrs=identity(description | tokens.attrs) | attrs,
                )
                (unfinished / "tally.nc").rename(self._tally_path(unfinished))

        with bar:
            extraction.with_less_memory(self._tokens_per_batch(window), run)
        seconds = time.perf_counter() - began
        return seconds, f"{total} tokens x {len(layers)} layers on {self._device}, {total / seconds:.0f} tokens/s"

    @cached_property
    def _model(self) -> transformers.PreTrainedModel:
        settings, description, whole = self._settings, self._description, self._wanted["predictions"]
        job.log(f"loading {description['model']} {description['checkpoint']}")
        loading = {name: settings[name] for name in ("dtype", "attention", "experts", "gpus", "trust_remote_code")}
        last_layer = None if whole else description["layers"][-1]
        return models.load(self._folder, device=self._device, last_layer=last_layer, head=whole, **loading)

    def _tokens_per_batch(self, window: int) -> int:
        """As many as fit into what was free before the first part: all parts have batches as if they were the first."""
        if self._batch is None:
            wanted = self._wanted["tokens_per_batch"][self._device.type]
            self._batch = extraction.batch_tokens(wanted, self._model.config, self._device, window)
        return self._batch
