"""Record folders and token files of synthetic datasets, as the chapters on vocabulary read them."""

from pathlib import Path

import numpy as np
import xarray as xr
from routing_cases import Case, case, logits_for, records

from gatebook.files import netcdf
from gatebook.study import routed


def written(study: dict[str, Case], folder: Path, predicted: dict[str, np.ndarray] | None = None) -> dict[str, list]:
    """Write the records and tokens of every dataset of a study; the arguments of `routed.read`."""
    paths = {"records": [], "tokens": []}
    for name, made in study.items():
        attrs = {"dataset": name, "dataset_sha256": f"files of {name}", "tokens_sha256": f"sum of {name}"}
        attrs |= {"model": "made up", "checkpoint": "last"}
        for layer, one in made.layers.items():
            netcdf.save(one.assign_attrs(attrs), folder / name / f"layer_{layer}.nc")
        netcdf.save(made.tokens.assign_attrs(attrs), folder / f"{name}.nc")
        if predicted is not None:
            values = xr.Dataset({"predicted_token": ("token", predicted[name].astype(np.int32))})
            netcdf.save(values, folder / name / "predictions.nc")
        paths["records"].append(str(folder / name))
        paths["tokens"].append(str(folder / f"{name}.nc"))
    return paths


def measured(measure, study: dict[str, Case], folder: Path, predicted: dict | None = None, **options) -> xr.Dataset:
    """What `measure` finds in a study."""
    paths = written(study, folder, predicted)
    tokens = routed.read(**paths)
    options = {"permutations": 2, "seed": 1, "confidence": 0.95} | options
    return measure(tokens, routed.read_layers(tokens, paths["records"]), **options).metrics


def vocabulary_case(
    rng: np.random.Generator,
    lengths: list[int],
    strength: float,
    *,
    experts: int = 6,
    top_k: int = 2,
    types: int = 12,
    layers: tuple[int, ...] = (0, 2),
) -> Case:
    """Random routing that depends on the token id: logits are `strength` times those of the id, plus noise.

    The number of a type is a random draw, so that few types are frequent; expert 0 is favoured a little.
    """
    token_id = rng.geometric(2 / types, sum(lengths)) % types
    made = {}
    for layer in layers:
        of_id = np.random.default_rng(layer).standard_normal((types, experts))
        logits = (
            strength * of_id[token_id] + rng.standard_normal((len(token_id), experts)) + 0.5 * (np.arange(experts) == 0)
        )
        made[layer] = records(logits, top_k)
    return case(made, lengths, token_id)


def selection(token_id: list[int], selected: list[list[int]], experts: int, lengths: list[int]) -> Case:
    """One layer, numbered 0, with given token ids and selections."""
    selected = np.array(selected)
    return case({0: records(logits_for(selected, experts), selected.shape[1])}, lengths, np.array(token_id))
