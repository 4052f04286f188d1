"""Models whose routing other engines traced: what is known of them, and records of what their traces hold."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gatebook.inputs.traces import checks
from gatebook.inputs.traces.base import Block
from gatebook.problem import Problem
from gatebook.routing.records import Records, expert_dtype
from gatebook.routing.rule import RoutingRule

NOT_STATED = "family not stated"


def describe(key: str, settings: Mapping, folder: Path | None) -> dict:
    """What is known of a traced model, by its entry in the config, and the config.json of its `folder` if it has one.

    Parameters
    ----------
    key
        Of the model in the config.
    settings
        Its entry.
    folder
        In the hub's layout; weights are not read.

    Returns
    -------
    dict
        `family`, `experts`, `top_k`, `rule` (that of `RoutingRule`), `trace_layers`, those of files in order, `layers`,
        those that are studied, and `dense_layers`; all of the model, in JSON's types.

    Raises
    ------
    Problem
        If the config says other numbers than config.json.
    """
    stated = {
        "experts": settings.get("experts_per_layer"),
        "top_k": settings.get("experts_per_token"),
        "family": settings.get("family"),
    }
    dense, moe = [], None
    if folder is None:
        rule = RoutingRule(stated["family"] or NOT_STATED, stated["experts"], stated["top_k"], **_router(settings))
    else:
        rule, moe, dense = _of_config(folder, settings["trust_remote_code"])
        for name, value in stated.items():
            if value not in (None, getattr(rule, name)):
                words = {"experts": "experts_per_layer", "top_k": "experts_per_token"}.get(name, name)
                raise Problem(
                    f"{key}.{words}: it is {value}, and {folder}/config.json says {getattr(rule, name)}: correct it."
                )
    layers = expanded(settings["trace_layers"]) if "trace_layers" in settings else moe
    studied = _studied(key, settings["layers"], layers, moe)
    return {
        "family": rule.family,
        "experts": rule.experts,
        "top_k": rule.top_k,
        "rule": asdict(rule),
        "trace_layers": layers,
        "layers": studied,
        "moe_layers": studied if moe is None else moe,
        "dense_layers": dense,
    }


def expanded(layers: int | str | list) -> list[int]:
    """Layers and ranges as numbers, in the given order."""
    found = []
    for item in layers if isinstance(layers, list) else [layers]:
        first, _, last = str(item).partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def records(block: Block, holds: str, rule: RoutingRule, tokens: np.ndarray, windows: np.ndarray, key: str) -> Records:
    """The records of checked tokens, of what the traces hold of them.

    Parameters
    ----------
    block
        Of tokens that are kept.
    holds
        "ids", "order", "weights" or "logits".
    rule
        Of the model.
    tokens, windows
        Their places in the dataset.
    key
        Of the dataset in the config.

    Returns
    -------
    Records
        Of all studied layers.

    Raises
    ------
    Problem
        If the logits select other experts than the traces.
    """
    ids, scores = checks.ordered(block, holds)
    dtype = expert_dtype(rule.experts)
    if holds == "logits":
        found = {"selected_expert": _selected(block, rule, key).astype(dtype), "router_logits": block.logits}
    else:
        found = {"selected_expert": ids.astype(dtype)} | (
            {"routing_weight": scores.astype(np.float32, copy=False)} if holds == "weights" else {}
        )
    by_layer = {name: np.ascontiguousarray(np.moveaxis(values, 1, 0)) for name, values in found.items()}
    return Records(tokens, windows, by_layer, {})


def _selected(block: Block, rule: RoutingRule, key: str) -> np.ndarray:
    """The experts that logits select, (token, layer, rank); a `Problem` if the traces say others."""
    import torch  # takes a second, and traces without logits need none of it

    selected = rule.select(torch.from_numpy(np.asarray(block.logits, np.float32)))
    other = np.sort(selected.numpy(), axis=-1) != np.sort(block.ids, axis=-1)
    if other.any():
        token, layer = np.argwhere(other.any(axis=-1))[0]
        raise Problem(
            f"{key}: of a token's logits {selected[token, layer].tolist()} are the largest, and the traces say "
            f"{block.ids[token, layer].tolist()}: correct `router`, or leave the logits out (`holds`)."
        )
    return selected.numpy()


def _router(settings: Mapping) -> dict:
    return {"normalised": False} | settings.get("router", {})


def _of_config(folder: Path, trust_remote_code: bool) -> tuple[RoutingRule, list[int], list[int]]:
    """The routing rule of a folder's config.json, its layers with experts, and those without."""
    from gatebook.inputs.model_folder import load_config
    from gatebook.routing.families import routing_rule
    from gatebook.routing.routers import find_routers, skeleton

    config = load_config(folder, trust_remote_code)
    rule, layers = routing_rule(config), sorted(find_routers(skeleton(config)))
    if rule.bias:
        rule = RoutingRule(**asdict(rule) | {"bias": False})  # traces do not hold it, nor do their weights need it
    return rule, layers, sorted(set(range(config.num_hidden_layers)) - set(layers))


def _studied(key: str, wanted: int | str | list, layers: list[int], moe: list[int] | None) -> list[int]:
    """The layers that are studied: those `wanted` of the files' `layers`, all of which have experts."""
    if wanted == "all":
        chosen = [layer for layer in layers if moe is None or layer in moe]
    else:
        chosen = sorted(set(expanded(wanted)))
    known = layers if moe is None else [layer for layer in layers if layer in moe]
    if wrong := [layer for layer in (chosen or layers) if layer not in known]:
        raise Problem(f"{key}.layers: layer {wrong[0]} is not among the layers with experts that files hold ({known}).")
    if beyond := [layer for layer in layers if moe and layer > max(moe)]:
        raise Problem(f"{key}.trace_layers: the model of config.json has no layer {beyond[0]}: correct it.")
    return chosen
