"""What the chapters found about the experts of a layer, for the expert browser, whose own data are of tokens alone.

They come as data scripts in the folder of the profiles, because a browser that opens a file cannot read its JSON.
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from gatebook.chapters.coactivation.measure import null_pairs
from gatebook.files.data_scripts import DataScripts
from gatebook.measures.uncertainty import INTERVAL


def _triple(interval: dict) -> list[float | None]:
    return [_rounded(interval[part]) for part in INTERVAL]


def _rounded(value: float | None) -> float | None:
    """With 3 significant digits; None for what is no finite number."""
    return float(f"{value:.3g}") if value is not None and np.isfinite(value) else None


def of_layer(profiles: list[dict], coactivation: xr.Dataset) -> dict:
    """What is known of the experts of a layer beside their tokens.

    Parameters
    ----------
    profiles
        Those of the layer's experts, in order: see `profiles.profiles`.
    coactivation
        The metrics of that chapter in this layer: `lift`, `lift_low`, `lift_high`, `adjusted_p` (expert, other).

    Returns
    -------
    dict
        For each expert `load`, its share of the tokens, and `first`, the share of those whose first choice it is, each
        estimate, low and high; `ranks`, tokens by rank; `entropy`, normalised, estimate, low and high, and
        `entropy_of_all` tokens; `domains`, for every dataset share, low, high and q; `types`, for every token type
        share, low and high, and `types_of_all`, the shares of all tokens; if outputs were compared `nearest`, the most
        alike experts with the cosine; if experts were removed `ablation`, the change of loss, estimate, low and high,
        and the dataset where it is largest, with the same of it. For every pair, row by row above the diagonal,
        `expected`, its tokens if loads alone decided, `low` and `high` of its lift, and `q`, None where a pair is not
        tested. Numbers have 3 significant digits, `expected` 6.
    """
    experts, top_k = len(profiles), len(profiles[0]["ranks"])
    upper = np.triu_indices(experts, 1)
    share = np.array([sum(one["ranks"]) for one in profiles]) / profiles[0]["tokens"]
    expected = null_pairs(share, top_k)[upper] * profiles[0]["tokens"] if top_k > 1 else np.zeros(len(upper[0]))
    names = {"low": "lift_low", "high": "lift_high", "q": "adjusted_p"}
    pairs = {
        name: list(map(_rounded, coactivation[known].transpose("expert", "other").values[upper].tolist()))
        for name, known in names.items()
    }
    found = {
        "load": [_triple(one["load"]["selected_share"]) for one in profiles],
        "first": [_triple(one["load"]["first_share"]) for one in profiles],
        "ranks": [one["ranks"] for one in profiles],
        "entropy": [_triple(one["entropy"]["normalised"]) for one in profiles],
        "entropy_of_all": _rounded(profiles[0]["entropy"]["normalised_all_tokens"]),
        "domains": [
            [[*_triple(domain["share"]), _rounded(domain["adjusted_p"])] for domain in one["domains"]]
            for one in profiles
        ],
        "types": [[_triple(kind["share"]) for kind in one["token_types"]] for one in profiles],
        "types_of_all": [_rounded(kind["share_of_all_tokens"]) for kind in profiles[0]["token_types"]],
        "expected": [float(f"{value:.6g}") for value in expected.tolist()],
    } | pairs
    if "nearest" in profiles[0]:
        found["nearest"] = [
            [[other["expert"], _rounded(other["mean_removed_cosine"])] for other in one["nearest"]] for one in profiles
        ]
    if "ablation" in profiles[0]:
        of = [one["ablation"] for one in profiles]
        found["ablation"] = [
            [*_triple(one["loss_change"]), one["most"]["dataset"], *_triple(one["most"]["loss_change"])] for one in of
        ]
    return found


def scripts(layers: Iterable[tuple[int, dict]], profile: dict, confidence: float, rate: float) -> DataScripts:
    """The data scripts: found/index, and found/LAYER with what `of_layer` returns, for pairs of (layer, that).

    `profile` is one of them; `confidence` is that of the intervals, `rate` the false discovery rate of the datasets'
    tests. found/index: `confidence`, `rate`, and the names of `datasets` and token `types`.
    """
    made = DataScripts()
    names = {
        "datasets": [one["dataset"] for one in profile["domains"]],
        "types": [one["type"] for one in profile["token_types"]],
    }
    made.add("found/index", {"confidence": confidence, "rate": rate} | names)
    for number, content in layers:
        made.add(f"found/{number}", content)
    return made
