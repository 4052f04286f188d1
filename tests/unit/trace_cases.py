"""Routing traces made up for tests, and files of them in every form."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file

EXPERTS, TOP_K, LAYERS = 8, 2, (1, 3)
LENGTHS = (40, 25, 35)
CLUSTERS = (1, 1, 2)


@dataclass
class Traced:
    """Tokens of three documents in two clusters, and what they select: in order, with weights."""

    token_id: np.ndarray
    document: np.ndarray
    cluster: np.ndarray
    position: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    logits: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By the names that files have for them, without logits."""
        names = {"token_ids": self.token_id, "document": self.document, "cluster": self.cluster}
        return names | {"position": self.position, "indices": self.ids.astype(np.int16), "scores": self.scores}


def made(
    lengths: tuple[int, ...] = LENGTHS, seed: int = 0, experts: int = EXPERTS, layers: int = len(LAYERS)
) -> Traced:
    """Random logits, of which the largest are selected; cluster of a document by `CLUSTERS`."""
    random, tokens = np.random.default_rng(seed), sum(lengths)
    logits = random.normal(size=(tokens, layers, experts)).astype(np.float32)
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :TOP_K]
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    document = np.repeat(np.arange(len(lengths)), lengths)
    return Traced(
        token_id=random.integers(0, 50, tokens).astype(np.int32),
        document=document.astype(np.int32),
        cluster=np.array([CLUSTERS[each % len(CLUSTERS)] for each in range(len(lengths))], np.int32)[document],
        position=np.concatenate([np.arange(each) for each in lengths]).astype(np.int32),
        ids=ids,
        scores=np.take_along_axis(p, ids, axis=-1).astype(np.float32),
        logits=logits,
    )


def npz(path: Path, traced: Traced, **other: np.ndarray) -> Path:
    """Compressed arrays; `other` ones are added or put in the place of some."""
    np.savez_compressed(path / "traces.npz", **traced.arrays | other)
    return path / "traces.npz"


def safetensors(path: Path, traced: Traced, **other: np.ndarray) -> Path:
    """The same arrays as safetensors."""
    save_file(
        {name: np.ascontiguousarray(each) for name, each in (traced.arrays | other).items()}, path / "t.safetensors"
    )
    return path / "t.safetensors"


def parquet(path: Path, traced: Traced, checkpoint: str = "v1", layers: tuple[int, ...] = LAYERS) -> Path:
    """A folder with samples/ and actives/, as FLAME-MoE-Traces has them."""
    folder = path / "parquet"
    of_layers = folder / "actives" / checkpoint
    of_layers.mkdir(parents=True)
    (folder / "samples").mkdir(exist_ok=True)
    columns = {"token_id": traced.token_id, "document": traced.document, "cluster": traced.cluster}
    phase = np.full(len(traced.token_id), "prompt")
    table = pa.table(columns | {"position": traced.position, "phase": phase})
    pq.write_table(table.slice(0, 60), folder / "samples/part_0.parquet")
    pq.write_table(table.slice(60), folder / "samples/part_1.parquet")
    for place, layer in enumerate(layers):
        indices = pa.array(list(traced.ids[:, place]), pa.list_(pa.int16()))
        scores = pa.array(list(traced.scores[:, place]), pa.list_(pa.float32()))
        written = pa.table({"scores": scores, "indices": indices})
        pq.write_table(written, of_layers / f"layer_{layer:02d}.parquet", row_group_size=33)
    return folder


def documents(traced: Traced):
    """The tokens of each document, as a slice."""
    ends = np.cumsum(np.bincount(traced.document))
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        yield slice(start, stop)


def lines(path: Path, traced: Traced, encoded: bool = False) -> Path:
    """A line for each document, with lists, or ids in base64 as int32."""
    file = path / ("encoded.jsonl" if encoded else "lists.jsonl")
    with file.open("w") as written:
        for part in documents(traced):
            ids = traced.ids[part]
            given = base64.b64encode(ids.astype("<i4").tobytes()).decode() if encoded else ids.tolist()
            request = {"token_ids": traced.token_id[part].tolist(), "routed_experts": given}
            request |= {"document": int(traced.document[part][0]), "cluster": int(traced.cluster[part][0])}
            request |= {"scores": traced.scores[part].tolist()}
            written.write(json.dumps(request) + "\n")
    return file


def requests(path: Path, traced: Traced) -> Path:
    """As vLLM returns them: prompt and answer apart."""
    file = path / "vllm.jsonl"
    with file.open("w") as written:
        for part in documents(traced):
            ids, tokens = traced.ids[part].tolist(), traced.token_id[part].tolist()
            request = {
                "prompt_token_ids": tokens[:10],
                "token_ids": tokens[10:],
                "cluster": int(traced.cluster[part][0]),
            }
            request |= {"prompt_routed_experts": ids[:10], "routed_experts": ids[10:], "document": str(part.start)}
            written.write(json.dumps(request) + "\n")
    return file


def recorder(path: Path, traced: Traced, physical: bool = True) -> Path:
    """As SGLang's recorder dumps it: ids of copies of experts, eight whatever k, and their map."""
    order = np.random.default_rng(1).permuted(np.tile(np.arange(EXPERTS), (len(LAYERS), 1)), axis=1)
    back = np.argsort(order, axis=1)
    ids = np.stack([back[place][traced.ids[:, place]] for place in range(len(LAYERS))])
    filled = np.full((*ids.shape[:2], 8), -1)
    filled[..., :TOP_K] = ids
    record = {
        "input_ids": torch.from_numpy(traced.token_id),
        "positions": torch.from_numpy(traced.position),
        "extend_seq_lens": torch.from_numpy(np.bincount(traced.document)),
        "topk_ids_of_layer": torch.from_numpy(filled),
    }
    dump = {"records": [record]} | ({"last_physical_to_logical_map": torch.from_numpy(order)} if physical else {})
    torch.save(dump, path / "dump.pt")
    return path / "dump.pt"


def csv(path: Path, traced: Traced) -> Path:
    """A row for every token, layer and expert."""
    shape = traced.ids.shape
    token, place, _ = np.indices(shape).reshape(3, -1)
    columns = {"token": token, "layer": np.array(LAYERS)[place], "expert": traced.ids.ravel()}
    columns |= {"score": traced.scores.ravel(), "token_id": traced.token_id[token], "document": traced.document[token]}
    pd.DataFrame(columns | {"cluster": traced.cluster[token]}).to_csv(path / "traces.csv", index=False)
    return path / "traces.csv"
