"""Traces of SGLang's recorder `per_token`: a `.pt` file, of which only tensors and plain values are read.

It holds `records`, one for each forward pass, of {input_ids, positions, extend_seq_lens, topk_ids_of_layer (layer,
token, 8)}, whose ids are those of copies of experts on devices, and the map `last_physical_to_logical_map` to experts.
"""

import pickle
from pathlib import Path

import numpy as np

from gatebook.inputs.traces.arrays import studied, to_logical
from gatebook.inputs.traces.base import Block, Blocks, Wanted, check_layers
from gatebook.problem import Problem

MAP = "last_physical_to_logical_map"
DECODED = "decoded in a batch, where it is not known to which request"


def read(path: Path, wanted: Wanted) -> Blocks:
    """A block for each forward pass that reads prompts: each of its requests is a document."""
    given = _load(path, wanted)
    logical, before = np.asarray(given[MAP]), 0
    for record in given["records"]:
        ids = np.moveaxis(np.asarray(record["topk_ids_of_layer"]), 0, 1)  # (token, layer, 8)
        check_layers(wanted, None, ids.shape[1], path)
        lengths = record.get("extend_seq_lens")
        if lengths is None:
            yield Block(ids[:0, : len(wanted.kept)], dropped={DECODED: len(ids)})
            continue
        lengths, tokens = np.asarray(lengths), np.asarray(record["input_ids"])
        if lengths.sum() != len(ids) or len(tokens) != len(ids):
            raise Problem(
                f"{wanted.key}: {path} has a pass of {len(ids)} tokens with {len(tokens)} token ids and requests of "
                f"{lengths.sum()} tokens: get it again."
            )
        positions = record.get("positions")
        yield Block(
            to_logical(studied(ids, wanted), logical, wanted, path),
            token_id=tokens,
            document=np.repeat(np.arange(before, before + len(lengths)), lengths),
            position=None if positions is None else np.asarray(positions),
            phase=np.full(len(tokens), "prompt", dtype=object),
        )
        before += len(lengths)


def _load(path: Path, wanted: Wanted) -> dict:
    import torch  # takes seconds, and other forms need none of it

    try:
        given = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (RuntimeError, pickle.UnpicklingError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise Problem(f"{wanted.key}: {path} cannot be read with weights_only ({reason}): save it anew.") from error
    if not isinstance(given, dict) or "records" not in given:
        raise Problem(f"{wanted.key}: {path} has no `records`: use what the recorder mode per_token dumps.")
    if given.get(MAP) is None:
        raise Problem(
            f"{wanted.key}: {path} has ids of physical experts without their map ({MAP}): add the map to the file."
        )
    return given
