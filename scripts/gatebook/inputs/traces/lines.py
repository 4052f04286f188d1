"""Traces as JSON lines: one request, or document, in each, with its experts as lists or in base64.

vLLM returns `prompt_routed_experts` and `routed_experts`, lists (token, layer, rank); SGLang `routed_experts` in
base64, int32 of the same order, from the token `routed_experts_start_len` on. Neither has experts of a last token
that nothing follows.
"""

import base64
import binascii
import json
from pathlib import Path

import numpy as np

from gatebook.inputs.traces.arrays import studied
from gatebook.inputs.traces.base import Block, Blocks, Wanted, check_layers, check_shape, with_last_token
from gatebook.problem import Problem

PROMPT, START = "prompt_routed_experts", "routed_experts_start_len"
TOKEN_IDS = (("prompt_token_ids", "prompt"), ("output_token_ids", "generated"))
NULL = "no experts recorded (null)"


def read(path: Path, wanted: Wanted) -> Blocks:
    """One block for each line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _request(line, f"{path} line {number}", f"{path.stem}:{number}", wanted)


def _request(line: str, where: str, name: str, wanted: Wanted) -> Block:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise Problem(f"{wanted.key}: {where} is no JSON ({error}): correct it.") from error
    if not isinstance(given, dict):
        raise Problem(f"{wanted.key}: {where} is no object with keys: write one for each request.")
    token_id, phase = _tokens(given, wanted)
    ids = _experts(given, wanted, where)
    if ids is None:
        lost = 0 if token_id is None else len(token_id)
        none = np.empty((0, len(wanted.kept), wanted.top_k), dtype=np.int64)
        return Block(
            none,
            token_id=None if token_id is None else token_id[:0],
            dropped={NULL: lost},
        )
    start, unrecorded = int(given.get(START) or 0), None
    if start:
        ids = np.concatenate([np.full((start, *ids.shape[1:]), -1, dtype=ids.dtype), ids])
    if token_id is not None:
        ids, unrecorded = with_last_token(ids, len(token_id), wanted, where)
    found = {part: _floats(given, part, len(ids), unrecorded, wanted, where) for part in wanted.parts}
    tokens = {part: wanted.find(part, given) for part in ("document", "cluster", "phase", "role", "position")}
    known = {part: _of_each(given[key], len(ids)) for part, key in tokens.items() if key and given[key] is not None}
    known.setdefault("document", _of_each(name, len(ids)))
    if phase is not None:
        known.setdefault("phase", phase)
    return Block(studied(ids, wanted), **found, token_id=token_id, **known, unrecorded=unrecorded)


def _tokens(given: dict, wanted: Wanted) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The token ids of a request and, if prompt and answer are apart, the phase of each."""
    parts = [(given[key], phase) for key, phase in TOKEN_IDS if given.get(key) is not None]
    key = wanted.find("token_id", given)
    if key is not None and not any(phase == "generated" for _, phase in parts):
        parts.append((given[key], "generated" if parts else ""))
    if not parts:
        return None, None
    ids = np.concatenate([np.asarray(found, dtype=np.int64) for found, _ in parts])
    phases = np.concatenate([np.full(len(found), phase, dtype=object) for found, phase in parts])
    return ids, phases if len(parts) > 1 else None


def _experts(given: dict, wanted: Wanted, where: str) -> np.ndarray | None:
    """The ids of a request (token, layer, rank), with -1 where a row is null; None if there are none."""
    values = given.get(wanted.need("ids", given, where))
    if values is None:
        return None
    found = _array(values, wanted, where, np.int64)
    if given.get(PROMPT) is not None:
        found = np.concatenate([_array(given[PROMPT], wanted, where, np.int64), found])
    return found


def _array(values, wanted: Wanted, where: str, dtype) -> np.ndarray:
    """(token, layer, rank) of nested lists, or of base64."""
    layers = len(wanted.layers)
    if isinstance(values, str):
        try:
            flat = np.frombuffer(base64.b64decode(values, validate=True), dtype="<i4")
        except (binascii.Error, ValueError) as error:
            raise Problem(f"{wanted.key}: {where} has experts that are no int32 in base64 ({error}).") from error
        if len(flat) % (layers * wanted.top_k):
            raise Problem(
                f"{wanted.key}: {where} has {len(flat)} ids in base64, not a multiple of {layers} layers x "
                f"{wanted.top_k} experts: correct trace_layers or experts_per_token."
            )
        return flat.reshape(-1, layers, wanted.top_k).astype(dtype)
    if not values:
        return np.empty((0, layers, wanted.top_k), dtype=dtype)
    empty = [[-1] * wanted.top_k] * layers
    try:
        found = np.array([empty if row is None else row for row in values], dtype=dtype)
    except (ValueError, TypeError) as error:
        raise Problem(
            f"{wanted.key}: {where} has lists that are not all {layers} layers x {wanted.top_k} numbers: correct them."
        ) from error
    check_shape(wanted, found.shape, where)
    check_layers(wanted, None, found.shape[1], where)
    return found


def _floats(given: dict, part: str, tokens: int, unrecorded, wanted: Wanted, where: str) -> np.ndarray:
    """Scores or logits of a request, with zeros for its last token if nothing is known of it."""
    values = np.asarray(given[wanted.need(part, given, where)], dtype=np.float32)
    if unrecorded is not None and len(values) == tokens - 1:
        values = np.concatenate([values, np.zeros((1, *values.shape[1:]), np.float32)])
    if values.ndim != 3 or len(values) != tokens:
        raise Problem(f"{wanted.key}: {where} has {part} of the shape {values.shape}: give as many as experts.")
    return studied(values, wanted)


def _of_each(value, tokens: int) -> np.ndarray:
    """One value for each token: a list as it is, anything else for all."""
    return np.array(value) if isinstance(value, list) else np.full(tokens, value, dtype=object)
