"""Routing records on disk: what is written is what was handed over, by threads that never fall silent."""

import threading
import time
from dataclasses import replace

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gatebook.files import atomic, netcdf
from gatebook.routing import records
from gatebook.routing.following import complete
from gatebook.routing.records import TOTALS, Records, RecordWriter
from gatebook.routing.rule import SCALARS, RoutingRule, routing_rule_of

RULE = RoutingRule("x", 6, 2, normalised=False)
BIASED = RoutingRule("y", 6, 2, normalised=True, scores="sigmoid", bias=True)


def some_records(tokens: int, seed: int = 0, contents: str = "exact", rule: RoutingRule = RULE) -> Records:
    rng = np.random.default_rng(seed)
    per_token = {name: rng.normal(size=tokens).astype(np.float32) for name in SCALARS}
    per_token["router_logits"] = rng.normal(size=(tokens, 6)).astype(np.float32)
    per_token["selected_expert"] = rng.integers(0, 6, (tokens, 2)).astype(np.uint8)
    per_token["routing_weight"] = rng.normal(size=(tokens, 2)).astype(np.float32)
    totals = {
        "probability_sum": rng.random((1, 6)).astype(np.float32),
        "expert_logit_histogram": rng.integers(0, 9, (6, 512)),
        "expert_probability_histogram": rng.integers(0, 9, (6, 64)),
    }
    assert sorted(totals) == sorted(TOTALS)
    wanted = records.contents_of(rule, contents)
    return Records(
        np.arange(tokens),
        np.arange(1),
        {name: per_token[name][None] for name in wanted},
        {name: values[None] for name, values in totals.items()} if contents == "compact" else {},
    )


def writer(folder, tokens: int, layers=(0, 3), contents: str = "exact", rule=RULE, **options) -> RecordWriter:
    options = {"windows": 1, "attrs": {}} | options
    return RecordWriter(folder, rule, list(layers), tokens=tokens, contents=contents, **options)


def write(folder, spans, layers=(0, 3), **options):
    folder.mkdir()
    first, total = 0, sum(len(span.tokens) for span in spans)
    with writer(folder, total, layers, windows=len(spans), **options) as records_writer:
        for number, span in enumerate(spans):
            every = {name: np.concatenate([values] * len(layers)) for name, values in span.per_token.items()}
            totals = {name: np.concatenate([values] * len(layers)) for name, values in span.totals.items()}
            moved = Records(span.tokens + first, np.array([number]), every, totals)
            records_writer.write(lambda moved=moved: moved)
            first += len(span.tokens)


def together(spans, name) -> np.ndarray:
    return np.concatenate([span.per_token[name][0] for span in spans])


@pytest.mark.parametrize("contents", ["exact", "rounded"])
def test_what_is_read_is_what_was_written(tmp_path, contents):
    spans = [some_records(5000, 0), some_records(3, 1), some_records(4100, 2)]
    bias = np.arange(6, dtype=np.float32)
    write(tmp_path / "r", spans, contents=contents, attrs={"model": "tiny"}, bias={3: bias}, threads=2)
    for layer in (0, 3):
        with netcdf.open_lazily(tmp_path / "r" / f"layer_{layer}.nc") as read:
            assert dict(read.sizes) == {"token": 9103, "expert": 6, "rank": 2}
            assert (read.attrs["layer"], read.attrs["contents"]) == (layer, contents)
            assert read.attrs["model"] == "tiny"
            assert read.attrs["Conventions"] == "CF-1.11"
            assert read["selected_expert"].dtype == np.uint8
            assert ("selection_bias" in read) == (layer == 3)
            if layer == 3:
                np.testing.assert_array_equal(read["selection_bias"], bias)
            logits = together(spans, "router_logits")
            if contents == "rounded":
                np.testing.assert_allclose(read["router_logits"], logits, rtol=2.0**-11, atol=0)
                assert not np.array_equal(read["router_logits"], logits)
            else:
                np.testing.assert_array_equal(read["router_logits"], logits)
            np.testing.assert_array_equal(read["selected_expert"], together(spans, "selected_expert"))
            assert set(read.data_vars) - {"selection_bias"} == {"router_logits", "selected_expert"}
            assert (read["router_logits"].attrs["long_name"], read["router_logits"].attrs["units"]) == (
                "raw router logits",
                "1",
            )


@pytest.mark.parametrize("rule", [RULE, BIASED])
def test_compact_records_have_rounded_values_and_added_totals(tmp_path, rule):
    spans = [some_records(tokens, seed, "compact", rule) for seed, tokens in enumerate((5000, 3, 4100))]
    write(tmp_path / "r", spans, contents="compact", rule=rule)
    with netcdf.open_lazily(tmp_path / "r" / "layer_3.nc") as read:
        sizes = {"token": 9103, "expert": 6, "rank": 2, "window": 3, "logit_bin": 512, "bin": 64}
        assert dict(read.sizes) == sizes
        derived = set() if rule is BIASED else {"logit_margin", "top_k_mass", "top_1_probability"}
        assert set(read.data_vars) == {"selected_expert", "routing_weight", *SCALARS, *TOTALS} - derived
        for name in spans[0].per_token:
            if name == "selected_expert":
                np.testing.assert_array_equal(read[name], together(spans, name))
            else:
                np.testing.assert_allclose(read[name], together(spans, name), rtol=2.0**-8, atol=0)
                assert read[name].attrs["_QuantizeBitRoundNumberOfSignificantBits"] == 7
        sums = np.concatenate([span.totals["probability_sum"][0] for span in spans])
        np.testing.assert_array_equal(read["probability_sum"], sums)
        for name in ("expert_logit_histogram", "expert_probability_histogram"):
            np.testing.assert_array_equal(read[name], sum(span.totals[name][0] for span in spans))
            assert read[name].dtype == np.int64


@given(
    hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False))
)
def test_rounding_is_to_the_nearest_of_ten_bits(values):
    found = records.rounded(values, 10)
    assert not (found.view(np.uint32) & 0x1FFF).any()
    assert (np.abs(found.astype(np.float64) - values) <= np.abs(values.astype(np.float64)) * 2.0**-11).all()
    np.testing.assert_array_equal(records.rounded(found, 10), found)


def test_a_tie_is_rounded_to_the_even_neighbour():
    step, last = 2.0**-10, 2.0**-23
    cases = {
        1 + step / 2: 1,
        1 + 1.5 * step: 1 + 2 * step,
        1 + 2.5 * step: 1 + 2 * step,
        1 + step / 2 + last: 1 + step,
        1 + 1.5 * step - last: 1 + step,
        2 - step / 2: 2,
        2 - step / 2 - last: 2 - step,
    }
    for sign in (1, -1):
        values, expected = (sign * np.array(list(each), np.float32) for each in (cases, cases.values()))
        np.testing.assert_array_equal(records.rounded(values, 10), expected)


def test_rounding_keeps_what_is_no_number():
    values = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1.5], dtype=np.float32)
    np.testing.assert_array_equal(records.rounded(values, 10), values)


@pytest.mark.parametrize(("experts", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16)])
def test_the_smallest_integer_that_holds_every_expert(experts, dtype):
    assert records.expert_dtype(experts) is dtype
    assert np.iinfo(dtype).max >= experts - 1


def test_not_a_number_survives(tmp_path):
    span = some_records(4, contents="compact")
    span.per_token["boundary_margin"][:] = np.nan
    write(tmp_path / "r", [span], contents="compact")
    assert np.isnan(netcdf.load(tmp_path / "r" / "layer_0.nc")["boundary_margin"]).all()


def test_the_bytes_depend_neither_on_the_spans_nor_on_the_threads(tmp_path):
    whole = some_records(9000)
    halves = [
        Records(
            np.arange(part.stop - part.start),
            np.arange(1),
            {name: values[:, part] for name, values in whole.per_token.items()},
            {},
        )
        for part in (slice(0, 1234), slice(1234, 9000))
    ]
    for name, spans, threads in (("a", [whole], 1), ("b", [whole], 4), ("c", halves, 1)):
        write(tmp_path / name, spans, threads=threads)
    for name in ("a", "b", "c"):
        one, other = (netcdf.load(tmp_path / folder / "layer_3.nc") for folder in ("a", name))
        assert one.identical(other)
    assert (tmp_path / "a" / "layer_3.nc").read_bytes() == (tmp_path / "b" / "layer_3.nc").read_bytes()


def test_records_are_made_in_the_writing_thread_and_at_most_one_span_waits(tmp_path):
    gate, threads, handed, one = threading.Event(), set(), [], some_records(4)

    def slow():
        gate.wait(10)
        threads.add(threading.current_thread().name)
        return one

    def produce():
        with writer(tmp_path, 40, [0]) as records_writer:
            for number in range(10):
                records_writer.write(lambda number=number: replace(slow(), tokens=one.tokens + 4 * number))
                handed.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    deadline = time.monotonic() + 60
    while len(handed) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(handed) == 2  # one at work, one waiting
    gate.set()
    producer.join(60)
    assert len(handed) == 10
    assert threads == {"record-writer"}


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("record-")]


def test_an_error_in_the_thread_reaches_the_main_thread_and_leaves_nothing(tmp_path):
    def broken():
        raise OSError("the disk is gone")

    with (
        pytest.raises(OSError, match="the disk is gone"),
        atomic.atomic_directory(tmp_path / "r") as folder,
        writer(folder, 400) as records_writer,
    ):
        for _ in range(100):  # far more than the queue holds: the writer must not block
            records_writer.write(broken)
    assert list(tmp_path.iterdir()) == []
    assert names_of_threads() == []


def test_an_error_while_packing_is_raised_too(tmp_path, monkeypatch):
    def broken(*_):
        raise MemoryError("no room to pack")

    monkeypatch.setattr(records, "packed", broken)
    with pytest.raises(MemoryError, match="no room to pack"), writer(tmp_path, 4, [0]) as records_writer:
        records_writer.write(lambda: some_records(4))
    assert names_of_threads() == []


def test_too_few_tokens_are_not_taken_for_all(tmp_path):
    with (
        pytest.raises(RuntimeError, match="4 tokens were recorded instead of 5"),
        writer(tmp_path, 5, [0]) as short,
    ):
        short.write(lambda: some_records(4))


def test_an_error_of_the_caller_is_the_one_that_is_seen(tmp_path):
    with (
        pytest.raises(KeyError, match="mine"),
        atomic.atomic_directory(tmp_path / "r") as folder,
        writer(folder, 4) as records_writer,
    ):
        records_writer.write(lambda: some_records(4))
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []
    assert names_of_threads() == []


def test_other_readers_open_the_files(tmp_path):
    write(tmp_path / "r", [some_records(10)])
    with netCDF4.Dataset(tmp_path / "r" / "layer_0.nc") as file:
        assert file["router_logits"].filters()["zlib"]
        assert file["router_logits"].chunking() == [10, 6]
        assert "_FillValue" not in file["selected_expert"].ncattrs()
    with xr.open_dataset(tmp_path / "r" / "layer_0.nc") as read:
        assert read["selected_expert"].dtype == np.uint8


@pytest.mark.parametrize(
    ("contents", "dtype", "bytes_per_token"),
    [
        ("exact", "float32", 64 * 4 + 8),
        ("exact", "bfloat16", 64 * 2 + 8),
        ("rounded", "float32", 64 * 19 / 8 + 8),
        ("compact", "bfloat16", 8 + 2 * 8 + 2 * 3),
    ],
)
def test_the_largest_size_counts_the_bits_that_floats_keep(contents, dtype, bytes_per_token):
    rule = RoutingRule("z", 64, 8, normalised=False)
    assert records.largest_bytes(rule, contents, dtype, 1000, 16) == 1000 * 16 * bytes_per_token


@pytest.mark.parametrize("contents", ["exact", "rounded", "compact"])
def test_written_records_are_not_larger_than_the_largest_size(tmp_path, contents):
    spans = [some_records(4096, seed, contents, RULE) for seed in range(4)]
    write(tmp_path / "r", spans, contents=contents)
    written = sum(path.stat().st_size for path in (tmp_path / "r").glob("layer_*.nc"))
    layers = len(list((tmp_path / "r").glob("layer_*.nc")))
    totals = 60_000 * layers if contents == "compact" else 20_000 * layers  # histograms, headers, attributes
    assert written < records.largest_bytes(RULE, contents, "float32", 4 * 4096, layers) + totals


VERSION_0_1 = {  # the attributes of a layer's records as version 0.1 wrote them
    "Conventions": "CF-1.11",
    "source": "MoE Routing Atlas",
    "provenance": '{"code": "ce5a9ef2e65e8c8f", "rule": "extract_routing", "settings": {"extraction": {"predictions": '
    'true, "records": "exact", "sample": {"seed": 3, "size": 150}, "threads": 1, "tokens_per_batch": {"cpu": 4096, '
    '"cuda": "auto"}}, "place": {"shard": 1, "shards": 1}}, "software": {"moe-routing-atlas": "0.1.0", "python": '
    '"3.11.7"}, "wildcards": {"checkpoint": "step0", "model": "demo", "part": "legal"}}',
    "layer": 0,
    "contents": "exact",
    "model": "demo",
    "model_id": "embedded demo",
    "checkpoint": "step0",
    "dataset": "legal",
    "tokens_sha256": "4632b028ed475fa22005249f3be4b7a8eaa0c9aa29e2e95a19768757ddf27395",
    "routing_rule": '{"bias": false, "cast": true, "dense_layers": [], "experts": 6, "family": "olmoe", "group_score": '
    '"best", "groups": 1, "kept_groups": 1, "normalised": false, "scale": 1.0, "scores": "softmax", "shared_experts": '
    '0, "sorted": true, "top_k": 2, "weighting": "scores"}',
    "computation": '{"attention": "sdpa", "device": "cpu", "dtype": "float32", "experts": "eager", "gpus": 1, '
    '"tokens_per_batch": 4096}',
    "first_token": 0,
}


def test_records_of_version_0_1_are_read(tmp_path):
    logits = np.array([[0, 1, 2, 3, 4, 5], [9, 8, 0, 0, 0, 0]], np.float32)
    selected = np.array([[5, 4], [0, 1]], np.uint8)
    written = xr.Dataset(
        {"router_logits": (("token", "expert"), logits), "selected_expert": (("token", "rank"), selected)},
        attrs=VERSION_0_1,
    )
    written.to_netcdf(tmp_path / "layer_0.nc", engine="netcdf4")
    with records.open_layer([tmp_path], 0) as found:
        rule = routing_rule_of(found.attrs)
        whole = complete({name: array.values for name, array in found.items()}, rule)
        assert found.attrs["dataset"] == "legal"
    assert (rule.experts, rule.top_k, rule.scores, rule.normalised) == (6, 2, "softmax", False)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.take_along_axis(probabilities, selected.astype(int), 1)
    np.testing.assert_allclose(whole["routing_weight"], expected, rtol=1e-6)
