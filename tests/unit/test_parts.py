"""Parts of datasets: how they are named and split, and that shards read as one are the dataset."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from gatebook.atlas import browser
from gatebook.files import netcdf, parts
from gatebook.inputs.clusters import groups
from gatebook.inputs.shards import split, take
from gatebook.problem import Problem
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.study import routed, samples

LENGTHS = np.array([9, 3, 12, 5, 7, 4, 11, 6, 8, 2])
SHARDS = {"poems": 3, "code": 1}


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("dataset", ["stories", "gsm8k.question_only", "shard_1_of_2"])
def test_a_name_says_which_part_of_which_dataset(dataset):
    assert parts.names(dataset, 1) == [dataset]
    assert parts.names(dataset, 12)[9] == f"{dataset}.shard_10_of_12"
    for shards in (1, 2, 12):
        for number, name in enumerate(parts.names(dataset, shards), start=1):
            assert parts.dataset_of(name) == dataset
            assert parts.place_of(name) == {"shard": number, "shards": shards}


def test_folders_of_a_dataset_are_taken_together():
    folders = [
        f"a.b/{name}" for dataset in ("x", "y", "y.question_only") for name in parts.names(dataset, len(dataset))
    ]
    found = parts.by_dataset(folders)
    assert [str(folder) for group in found for folder in group] == folders
    assert [len(group) for group in found] == [1, 1, 15]


# ---------------------------------------------------------------- splitting


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5, 5, 5, 5], [0, 2, 4]),
        ([4, 3, 3, 2], [0, 2, 4]),  # 7 of 12 is nearer to 6 than 4 is
        ([10, 1, 1], [0, 1, 2, 3]),
        ([1, 1, 10], [0, 1, 2, 3]),
        ([1, 2, 3, 4, 5, 6], [0, 3, 5, 6]),  # 7 and 14 of 21: nearest are 6 and 15
        ([7], [0, 1]),
    ],
)
def test_shards_of_few_documents(lengths, expected):
    assert split(np.array(lengths), len(expected) - 1).tolist() == expected


@given(st.lists(st.integers(2, 50), min_size=1, max_size=40), st.data())
def test_every_document_is_in_one_shard_and_shards_are_balanced(lengths, data):
    shards = data.draw(st.integers(1, len(lengths)))
    first = split(np.array(lengths), shards)
    assert first[0] == 0 and first[-1] == len(lengths)
    assert (np.diff(first) > 0).all()
    tokens = [sum(lengths[start:stop]) for start, stop in pairwise(first)]
    assert max(tokens) <= sum(lengths) / shards + max(lengths)


def dataset(name: str, lengths: np.ndarray = LENGTHS) -> xr.Dataset:
    """Random tokens in windows of at most 8, as `inputs.tokenize` makes them."""
    rng, starts = np.random.default_rng(len(name)), np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    names = np.array([f"{name} {number}" for number in range(len(lengths))], dtype=object)
    cluster = names[np.arange(len(lengths)) // 2]
    return xr.Dataset(
        {
            "token_id": ("token", rng.integers(0, 320, len(owner)).astype(np.int32)),
            "document_index": ("token", owner),
            "position": ("token", ((np.arange(len(owner)) - starts[owner]) % 8).astype(np.int32)),
            "document_tokens": ("document", lengths.astype(np.int32)),
            "row": ("document", np.arange(len(lengths))),
        },
        coords={
            "document_id": ("document", names),
            "cluster": ("document", cluster),
            "group": ("document", groups(cluster)),
        },
        attrs={"dataset": name, "dataset_sha256": f"files of {name}", "tokens_sha256": f"sum of {name}"},
    )


def test_shards_are_the_tokens_one_after_another():
    whole = dataset("poems")
    shards = [take(whole, shard, 4) for shard in (1, 2, 3, 4)]
    for name in ("token_id", "position", "document_tokens", "document_id", "cluster", "row", "group"):
        np.testing.assert_array_equal(np.concatenate([shard[name] for shard in shards]), whole[name])
    documents = 0
    for shard in shards:
        span = slice(shard.attrs["first_token"], shard.attrs["first_token"] + shard.sizes["token"])
        np.testing.assert_array_equal(shard["document_index"] + documents, whole["document_index"][span])
        assert shard["document_index"].dtype == whole["document_index"].dtype
        documents += shard.sizes["document"]


def test_more_shards_than_documents_is_one_sentence():
    sentence = r"datasets\.poems: 10 documents cannot be split into 11 shards: set `shards` .* to 10 or fewer"
    with pytest.raises(Problem, match=sentence):
        take(dataset("poems"), 1, 11)


# ---------------------------------------------------------------- reading


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A dataset with 7 tokens, and the files of 2, 1 and 4 of them."""
    folder = tmp_path_factory.mktemp("joined")
    values = np.arange(3 * 7 * 2).reshape(3, 7, 2)
    whole = xr.Dataset({"x": (("layer", "token", "rank"), values)}, coords={"layer": [1, 2, 5]}, attrs={"a": "b"})
    paths = [folder / f"{number}.nc" for number in range(3)]
    for number, (start, stop) in enumerate(pairwise([0, 2, 3, 7])):
        netcdf.save(whole.isel(token=slice(start, stop)).assign(total=number, bias=7), paths[number])
    return whole, paths


PLACE = st.integers(-7, 6)
SPAN = st.builds(slice, st.none() | PLACE, st.none() | PLACE, st.sampled_from([None, 1, 2, 3]))


@pytest.mark.slow
@given(SPAN | PLACE | st.lists(PLACE, max_size=4))
def test_joined_files_are_read_like_the_whole(joined, token):
    whole, paths = joined
    with netcdf.open_joined(paths, along="token") as found:
        assert set(found.variables) == {"x", "layer", "bias"}  # not `total`, of which each file has its own
        assert found.attrs["a"] == "b"
        xr.testing.assert_equal(found["x"].isel(token=token), whole["x"].isel(token=token))
        xr.testing.assert_equal(found["x"].sel(layer=2), whole["x"].sel(layer=2))


@pytest.fixture(scope="module")
def study(tmp_path_factory, model_folder):
    """Record folders and token files of two datasets, each whole, and the first also cut into three shards."""
    folder = tmp_path_factory.mktemp("parts")
    model = models.load(
        model_folder, dtype="auto", device=torch.device("cpu"), attention="auto", experts="auto", head=True
    )
    identity = {"model": "tiny", "model_id": "tiny", "checkpoint": "local", "weights_sha256": "0" * 64}
    identity |= {"routing_rule": routing_rule(model.config).as_json()}
    for name in SHARDS:
        tokens = dataset(name)
        netcdf.save(tokens, folder / f"{name}.nc")
        (folder / name).mkdir()
        extraction.write_records(
            folder / name,
            model,
            [1, 3],
            tokens["token_id"].values,
            np.flatnonzero(tokens["position"].values == 0),
            tokens_per_batch=64,
            sampled=extraction.sample_tokens(tokens.sizes["token"], 20, 3, name),
            attrs=identity | {"dataset": name, "tokens_sha256": name},
        )
        for shard, part in enumerate(parts.names(name, SHARDS[name]), start=1):
            if part != name:
                cut(folder / name, folder / part, take(tokens, shard, SHARDS[name]))
    return folder


def cut(whole: Path, target: Path, tokens: xr.Dataset) -> None:
    """Write the files of a part, cut out of those of the whole dataset."""
    first = tokens.attrs["first_token"]
    for path in whole.iterdir():
        found = netcdf.load(path)
        if "sample" in found.dims:
            place = found["sampled_token"].values
            found = found.isel(sample=(first <= place) & (place < first + tokens.sizes["token"]))
        else:
            found = found.isel(token=slice(first, first + tokens.sizes["token"]))
        netcdf.save(found, target / path.name)


def inputs(study: Path, shards: dict[str, int]) -> dict[str, list[str]]:
    folders = [str(study / part) for name, number in shards.items() for part in parts.names(name, number)]
    return {"records": folders, "tokens": [str(study / f"{name}.nc") for name in shards]}


@pytest.fixture(scope="module")
def both(study) -> list[dict]:
    """The study with whole datasets, and with shards, as readers get it."""
    return [inputs(study, dict.fromkeys(SHARDS, 1)), inputs(study, SHARDS)]


@pytest.mark.parametrize("read", [routed.read, samples.read])
def test_what_is_known_of_tokens_does_not_depend_on_shards(both, read):
    whole, sharded = (read(**given) for given in both)
    xr.testing.assert_identical(whole, sharded)


def equal(one, other) -> bool:
    """Whether arrays, or containers of arrays, are the same bit for bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, routed.Layer):
        one, other = (list(vars(layer).values()) for layer in (one, other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_what_is_read_of_layers_does_not_depend_on_shards(both):
    tokens = routed.read(**both[0])
    documents = browser.Tokens(tokens, 10).documents
    texts = browser.choose_texts(documents, texts=6, text_tokens=8, plots=6)
    for read in (
        lambda records: list(routed.read_layers(tokens, records, "routing_weight", "entropy")),
        lambda records: [browser.read_plots(records, layer, texts) for layer in (1, 3)],
        lambda records: [samples.read_layer(records, layer) for layer in (1, 3)],
    ):
        whole, sharded = (read(given["records"]) for given in both)
        assert equal(whole, sharded)
