"""Records as Parquet, with the columns that public traces of routing have.

Beside `samples/part-0.parquet`, a row for each token, lie `actives/CHECKPOINT/layer_NN.parquet` with the same rows: NN
is the layer's number in the model. Ids and positions are exact, and weights are float32 as the records give them.
"""

import json
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from gatebook.files.origin import identity
from gatebook.files.sizes import format_bytes
from gatebook.study.routed import Layer

ROWS = 1 << 17
"""Of a row group."""
PROMPT = "prompt"
COLUMNS = {
    "token_id": "id of the token by the model's tokenizer",
    "document": "number of the token's document in the dataset, from 0",
    "cluster": "number of the document's cluster, from 0: documents of one source, which are not independent",
    "position": "place of the token in the window that the model saw, 0 for its first one",
    "phase": f"part of a conversation that the token is from; {PROMPT} for plain text",
    "indices": "experts that the token selects, numbered from 0, the largest weight first",
    "scores": "routing weights of these experts, float32",
}


def samples(tokens: xr.Dataset) -> pa.Table:
    """The tokens of a dataset's token file, a row for each, with the first five of `COLUMNS`."""
    document = tokens["document_index"].values
    names = tokens["cluster"].values.astype(str)
    _, first, code = np.unique(names, return_index=True, return_inverse=True)
    cluster = np.argsort(np.argsort(first))[code]  # numbered as they come
    words = np.array(tokens["phase"].attrs["flag_meanings"].split(), dtype=object)
    words[words == "none"] = PROMPT
    columns = {
        "token_id": tokens["token_id"].values.astype(np.int32),
        "document": document.astype(np.int32),
        "cluster": cluster[document].astype(np.int32),
        "position": tokens["position"].values.astype(np.int32),
        "phase": pa.DictionaryArray.from_arrays(tokens["phase"].values, words).cast(pa.string()),
    }
    return pa.table(columns).replace_schema_metadata(_told(tokens.attrs))


def actives(layer: Layer, attrs: Mapping[str, str]) -> pa.Table:
    """What a layer's router did to the tokens of a dataset, a row for each: `indices`, and `scores` if it has weights.

    `attrs` are those of the records.
    """
    columns = {"indices": _lists(layer.selected.astype(np.int16))}
    if layer.weight is not None:
        columns = {"scores": _lists(layer.weight)} | columns
    return pa.table(columns).replace_schema_metadata(_told(attrs) | {"experts": str(layer.experts)})


def write(table: pa.Table, path: str | Path) -> None:
    """Write a table; the same rows give the same bytes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=ROWS, compression="zstd")


def _lists(values: np.ndarray) -> pa.ListArray:
    """Rows (token, rank) as lists."""
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(ends, np.ascontiguousarray(values).ravel())


def _told(attrs: Mapping[str, str]) -> dict[str, str]:
    return {"gatebook": json.dumps(identity(dict(attrs)), sort_keys=True)}


def _number(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def card(
    model: str, folder: Path, checkpoints: Sequence[Mapping], datasets: Mapping[str, Mapping], made: Mapping
) -> str:
    """The data card of a model's export, in the form of the hub.

    Parameters
    ----------
    model
        Its name in the config.
    folder
        Where the export is.
    checkpoints
        Their descriptions (`models.describe`), in training order.
    datasets
        By name, the attributes and sizes of their token files (`documents.describe_dataset`).
    made
        Facts on how it was made, by what they are.

    Returns
    -------
    str
        Markdown after a YAML header.
    """
    parts = ["samples", *(f"actives/{each['checkpoint']}" for each in checkpoints)]
    files = [path for name in datasets for part in parts for path in (folder / name / part).glob("*.parquet")]
    total = sum(path.stat().st_size for path in files)
    tokens = sum(each["tokens"] for each in datasets.values())
    layers = checkpoints[-1]["layers"]
    header = ["---", f"pretty_name: {json.dumps(f'Routing of {model}')}", "license: unknown"]
    header += ["tags: [mixture-of-experts, routing]", "configs:"]
    for name in datasets:
        header += [f"- config_name: {name}", f"  data_files: {name}/samples/*.parquet"]
    lines = [*header, "---", "", f"# Which experts of {model} the tokens of {_number(datasets, 'dataset')} select", ""]
    lines += [
        f"{tokens:,} tokens in {_number(layers, 'layer')} ({', '.join(map(str, layers))}) at "
        f"{_number(checkpoints, 'checkpoint')}; {format_bytes(total)} of Parquet. Row i of every file of a dataset is "
        "of the same token. Shared experts, which every token uses, are left out.",
        "",
        "The licence of the data is not known to the program that made this: it is that of the texts, whose token ids "
        "allow to restore them, and of the model. Find out before you publish it.",
        "",
        "| file | column | meaning |",
        "|---|---|---|",
    ]
    of_routing = ("scores", "indices")
    lines += [
        f"| DATASET/samples/part-0.parquet | {name} | {COLUMNS[name]} |" for name in COLUMNS if name not in of_routing
    ]
    lines += [f"| DATASET/actives/CHECKPOINT/layer_NN.parquet | {name} | {COLUMNS[name]} |" for name in of_routing]
    lines += ["", "| checkpoint | model | revision | weights, sha256 |", "|---|---|---|---|"]
    for each in checkpoints:
        named = (each.get(part, "not known") for part in ("checkpoint", "model_id", "model_revision", "weights_sha256"))
        lines.append(f"| {' | '.join(map(str, named))} |")
    lines += [
        "",
        "| dataset | tokens | documents | clusters | token ids and windows, sha256 |",
        "|---|---|---|---|---|",
    ]
    for name, each in datasets.items():
        sizes = [f"{each[part]:,}" for part in ("tokens", "documents", "clusters")]
        lines.append(f"| {name} | {' | '.join(sizes)} | {each.get('tokens_sha256', 'not known')} |")
    lines += ["", "| made with | |", "|---|---|", *(f"| {name} | {value} |" for name, value in made.items()), ""]
    return "\n".join(lines)
