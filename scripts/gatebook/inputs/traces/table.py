"""Traces as CSV: a row for every token, layer and selected expert, the best first, in the order of tokens.

Columns: `token`, its number in the file; `layer`, its number in the model; `expert`; others are those of `base.NAMES`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from gatebook.inputs.traces.arrays import studied
from gatebook.inputs.traces.base import OF_TOKENS, Block, Blocks, Wanted, check_layers
from gatebook.problem import Problem


def read(path: Path, wanted: Wanted) -> Blocks:
    """The whole file as one block."""
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise Problem(f"{wanted.key}: {path} cannot be read as CSV ({str(error).splitlines()[0]}).") from error
    for name in ("token", "layer"):
        if name not in table:
            raise Problem(
                f"{wanted.key}: {path} has no column {name!r}, but {', '.join(table)}: without it no row can be put "
                "beside another; add it."
            )
    held = list(table)
    names = {"ids": wanted.need("ids", held, path)} | {part: wanted.need(part, held, path) for part in wanted.parts}
    table = table.sort_values(["token", "layer"], kind="stable", ignore_index=True)
    layers = tuple(sorted(table["layer"].unique().tolist()))
    check_layers(wanted, layers, len(layers), path)
    tokens, cells = table["token"].nunique(), table.groupby(["token", "layer"]).size()
    if len(cells) != tokens * len(layers) or (cells != wanted.top_k).any():
        (token, layer), number = next(((at, n) for at, n in cells.items() if n != wanted.top_k), ((None, None), 0))
        what = f"token {token} has {number} experts in layer {layer}" if number else "tokens lack layers"
        raise Problem(f"{wanted.key}: {path}: {what}: give {wanted.top_k} in each of {len(layers)} layers.")
    shape = (tokens, len(layers), wanted.top_k)
    found = {part: studied(table[name].to_numpy().reshape(shape), wanted) for part, name in names.items()}
    first = table.drop_duplicates("token")
    known = {part: first[name].to_numpy() for part in OF_TOKENS if (name := wanted.find(part, held))}
    if "scores" in found:
        found["scores"] = found["scores"].astype(np.float32)
    yield Block(**found, **known)
