"""Routing records on disk: what is written is what was handed over, by one thread that never falls silent."""

import threading
import time

import netCDF4
import numpy as np
import pytest
import xarray as xr

from moeatlas import records, storage
from moeatlas.records import SCALARS, Records, RecordWriter

SIZES = {"experts": 6, "top_k": 2}


def some_records(tokens: int, seed: int = 0, experts: int = 6, dtype=np.uint8) -> Records:
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return Records(
        router_logits=normal(tokens, experts),
        selected_expert=rng.integers(0, experts, (tokens, 2)).astype(dtype),
        routing_weight=normal(tokens, 2),
        scalars={name: normal(tokens) for name in SCALARS},
    )


def write(folder, spans, layers=(0, 3), rounded=False, tokens=None, attrs=None):
    folder.mkdir()
    total = tokens or sum(len(span.router_logits) for span in spans)
    with RecordWriter(folder, list(layers), tokens=total, rounded=rounded, attrs=attrs or {}, **SIZES) as writer:
        first = 0
        for span in spans:
            for layer in layers:
                writer.write(layer, first, span)
            first += len(span.router_logits)


@pytest.mark.parametrize("rounded", [False, True])
def test_what_is_read_is_what_was_written(tmp_path, rounded):
    spans = [some_records(5000, 0), some_records(3, 1), some_records(4100, 2)]
    write(tmp_path / "r", spans, rounded=rounded, attrs={"model": "tiny"})
    for layer in (0, 3):
        with storage.open_lazily(tmp_path / "r" / f"layer_{layer}.nc") as read:
            assert dict(read.sizes) == {"token": 9103, "expert": 6, "rank": 2}
            assert read.attrs["layer"] == layer
            assert read.attrs["model"] == "tiny"
            assert read.attrs["Conventions"] == "CF-1.11"
            assert read["selected_expert"].dtype == np.uint8
            logits = np.concatenate([span.router_logits for span in spans])
            if rounded:  # 10 significant bits: the relative error is at most half a unit of the last one
                np.testing.assert_allclose(read["router_logits"], logits, rtol=2.0**-10, atol=0)
                assert not np.array_equal(read["router_logits"], logits)
            else:
                np.testing.assert_array_equal(read["router_logits"], logits)
            for name in ("selected_expert", "routing_weight"):
                np.testing.assert_array_equal(read[name], np.concatenate([getattr(span, name) for span in spans]))
            for name, (long_name, units) in SCALARS.items():
                np.testing.assert_array_equal(read[name], np.concatenate([span.scalars[name] for span in spans]))
                assert (read[name].attrs["long_name"], read[name].attrs["units"]) == (long_name, units)


@pytest.mark.parametrize(("experts", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16)])
def test_the_smallest_integer_that_holds_every_expert(experts, dtype):
    assert records.expert_dtype(experts) is dtype
    assert np.iinfo(dtype).max >= experts - 1


def test_not_a_number_in_a_scalar_survives(tmp_path):
    span = some_records(4)
    span.scalars["boundary_margin"][:] = np.nan
    write(tmp_path / "r", [span])
    assert np.isnan(storage.load(tmp_path / "r" / "layer_0.nc")["boundary_margin"]).all()


def test_two_writings_are_identical_bytes(tmp_path):
    whole = some_records(5000)
    write(tmp_path / "a", [whole])
    write(tmp_path / "b", [whole])
    assert (tmp_path / "a" / "layer_3.nc").read_bytes() == (tmp_path / "b" / "layer_3.nc").read_bytes()


def test_only_the_writer_thread_writes_and_the_queue_holds_one_span_per_layer(tmp_path, monkeypatch):
    gate, threads, handed = threading.Event(), set(), []
    real = RecordWriter._write

    def slow(self, *item):
        gate.wait(10)
        threads.add(threading.current_thread().name)
        real(self, *item)

    monkeypatch.setattr(RecordWriter, "_write", slow)

    def produce():
        with RecordWriter(tmp_path, [0, 3], tokens=60, rounded=False, attrs={}, **SIZES) as writer:
            for number in range(30):
                writer.write((0, 3)[number % 2], number // 2 * 4, some_records(4))
                handed.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    deadline = time.monotonic() + 60
    while len(handed) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(handed) == 3  # one at work, two waiting
    gate.set()
    producer.join(60)
    assert len(handed) == 30
    assert threads == {"record-writer"}


def test_an_error_in_the_thread_reaches_the_main_thread_and_leaves_nothing(tmp_path, monkeypatch):
    def broken(self, *item):
        raise OSError("the disk is gone")

    monkeypatch.setattr(RecordWriter, "_write", broken)
    with (
        pytest.raises(OSError, match="the disk is gone"),
        storage.atomic_directory(tmp_path / "r") as folder,
        RecordWriter(folder, [0], tokens=400, rounded=False, attrs={}, **SIZES) as writer,
    ):
        for first in range(0, 400, 4):  # far more than the queue holds: the writer must not block
            writer.write(0, first, some_records(4))
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "record-writer"]


def test_an_error_only_at_the_end_is_raised_too(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("NetCDF: HDF error")

    with pytest.raises(RuntimeError, match="HDF error"):  # noqa: SIM117, the patch must come after the file is open
        with RecordWriter(tmp_path, [0], tokens=4, rounded=False, attrs={}, **SIZES) as writer:
            writer._files[0].close()
            monkeypatch.setitem(writer._files, 0, type("Broken", (), {"close": broken})())


def test_an_error_of_the_caller_is_the_one_that_is_seen(tmp_path):
    with (
        pytest.raises(KeyError, match="mine"),
        storage.atomic_directory(tmp_path / "r") as folder,
        RecordWriter(folder, [0], tokens=4, rounded=False, attrs={}, **SIZES),
    ):
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []


def test_other_readers_open_the_files(tmp_path):
    write(tmp_path / "r", [some_records(10)])
    with netCDF4.Dataset(tmp_path / "r" / "layer_0.nc") as file:
        assert file["router_logits"].filters()["zlib"]
        assert file["router_logits"].chunking() == [10, 6]
        assert "_FillValue" not in file["selected_expert"].ncattrs()
    with xr.open_dataset(tmp_path / "r" / "layer_0.nc") as read:
        assert read["selected_expert"].dtype == np.uint8
