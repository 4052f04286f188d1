"""The benchmarks measure what they say, at tiny sizes; no test looks at a time."""

import json
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import analysis, extraction, gpu, job, measuring, memory, olmoe, published, report, startup, storage
from benchmarks.measuring import Row, Times, Usage
from gatebook.files import netcdf as files
from gatebook.inputs.documents import load_tokens
from gatebook.routing.routers import find_routers

pytestmark = pytest.mark.long

TOKENS = {"tokens": 300, "typical": 24, "longest": 64}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return olmoe.build("tiny", torch.float32)


@pytest.fixture(scope="module")
def tokens():
    return olmoe.documents("tiny", **TOKENS)


@pytest.fixture
def records(model, tokens, tmp_path):
    """The folder of exact records of all layers of the tiny model."""
    return published.write(tmp_path, model, *tokens, "exact")


def numbers(rows: list[Row]) -> list[float]:
    """The measured values of rows, without units."""
    return [float(row.measured.split()[0].replace(",", "")) for row in rows]


def test_variants_take_turns_and_every_round_begins_with_the_next():
    seen = []
    times = measuring.interleaved({name: lambda name=name: seen.append(name) for name in "abc"}, rounds=4)
    assert "".join(seen) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert all(each.wall.shape == each.processor.shape == (4,) and (each.wall > 0).all() for each in times.values())


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds():
    slow, fast = (Times(np.array(wall), np.zeros(3)) for wall in ([2.0, 30.0, 5.0], [1.0, 10.0, 1.0]))
    assert measuring.ratio(slow, fast) == 3.0


def test_the_table_says_whether_goals_are_met():
    rows = [
        measuring.judged("cost", 0.9, "x", at_most=0.9),
        measuring.judged("size", 95.2, "B", at_most=95),
        measuring.judged("speed", 123_456.7, "tokens/s", at_least=123_456),
        measuring.judged("gain", 19.94, "x", at_least=20),
        measuring.judged("share", 0.0123456, ""),
    ]
    assert measuring.table(rows).splitlines() == [
        "| what  | measured         | goal             | met |",
        "| ----- | ---------------- | ---------------- | --- |",
        "| cost  | 0.90 x           | at most 0.90     | yes |",
        "| size  | 95.2 B           | at most 95.0     | no  |",
        "| speed | 123,457 tokens/s | at least 123,456 | yes |",
        "| gain  | 19.9 x           | at least 20.0    | no  |",
        "| share | 0.0123           |                  |     |",
    ]


def test_peak_memory_is_that_of_this_process_and_stays():
    before = measuring.peak_memory()
    size = before // 2 + (1 << 24)
    block = np.ones(size, dtype=np.uint8)
    assert before + (1 << 23) < measuring.peak_memory()
    del block
    assert before + (1 << 23) < measuring.peak_memory()


def test_a_job_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"tally_routing failed(?s:.*)nowhere\.nc"):
        measuring.run_job(
            "tally_routing",
            (),
            {"tokens": tmp_path / "nowhere.nc", "records": tmp_path},
            {"tally": tmp_path / "x"},
            analysis.WHOLE,
        )


def test_operations_are_those_of_the_published_sizes():
    assert olmoe.operations_per_token("full", 512) == pytest.approx(2.39e9, rel=2e-3)
    assert olmoe.operations_per_token("full", 512, head=False, last_experts=False) == pytest.approx(2.08e9, rel=3e-3)


def test_operations_are_those_that_a_pass_does(model):
    def counted(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        found = counter.get_flop_counts()["Global"]
        return sum(count for operation, count in found.items() if "attention" not in str(operation))

    token_id, _ = olmoe.documents("tiny", tokens=48, typical=48, longest=48)
    runs = extraction.passes(model, token_id, np.array([0]), 48)
    expected = {
        extraction.BATCH: olmoe.operations_per_token("tiny", 0),
        extraction.BARE: olmoe.operations_per_token("tiny", 0, head=False),
        extraction.STOPPED: olmoe.operations_per_token("tiny", 0, head=False, last_experts=False),
    }
    # the last query, key and value are computed, and so is the last router
    assert {name: counted(runs[name]) / 48 for name in expected} == expected


@pytest.mark.parametrize("count", [2, 300, 5000])
def test_documents_have_the_tokens_that_were_asked_for(count):
    token_id, starts = olmoe.documents("tiny", count, typical=24, longest=64)
    lengths = np.diff(np.append(starts, count))
    assert token_id.shape == (count,) and token_id.min() > 0 and token_id.max() < 512
    assert starts[0] == 0 and lengths.min() > 0 and lengths.max() <= 64


def test_all_passes_see_the_batches_of_extraction(model, tokens):
    runs = extraction.passes(model, *tokens, 128)
    runs[extraction.WITH_LOGITS]()  # transformers leaves hooks of its own
    routers = find_routers(model.model).values()
    hooks = [dict(module._forward_hooks) for module in routers]
    assert list(runs) == [
        extraction.BATCH, extraction.WITH_LOGITS, extraction.BARE, extraction.STOPPED, *extraction.EXTRACTION.values()
    ]  # fmt: skip
    seen = {name: extraction.extracted_batches(model, run) for name, run in runs.items()}
    expected = seen[extraction.BARE]
    # ids are above 0, so what is not 0 is no padding
    real = np.concatenate([batch[batch > 0].numpy() for batch in expected])
    np.testing.assert_array_equal(np.sort(real), np.sort(tokens[0]))
    assert len(expected) > 1 and max(batch.numel() for batch in expected) <= 128
    for batches in seen.values():
        assert all(torch.equal(*pair) for pair in zip(batches, expected, strict=True))
    assert [dict(module._forward_hooks) for module in routers] == hooks


def test_a_comparison_has_a_row_for_every_pass():
    names = (extraction.BATCH, extraction.BARE, extraction.STOPPED, *extraction.EXTRACTION.values())
    rows = extraction.compare(extraction.Setup("tiny", "bfloat16", 1, names, rounds=1))
    assert [row.what for row in rows] == [
        "tiny, bfloat16, 1 thread: extraction / model(**batch)",
        "tiny, bfloat16, 1 thread: extraction / base model",
        "tiny, bfloat16, 1 thread: extraction / base model, stopped at the last router",
        "tiny, bfloat16, 1 thread: extraction of compact records / base model",
        "tiny, bfloat16, 1 thread: processor time of recording and writing, per token and layer",
    ]


def test_goals_belong_to_setups_that_measure_them():
    measured = {setup.size: setup.passes for setup in extraction.SETUPS if setup.threads == 1}
    for size, limits in extraction.LIMITS.items():
        assert {*limits, extraction.EXTRACTION["exact"]} <= set(measured[size])


def test_entropy_of_bfloat16_values():
    assert storage.bfloat16_entropy(np.array([[1, 1], [-2, 4]])) == 1.5
    assert storage.bfloat16_entropy(np.full(7, 0.5)) == 0
    with pytest.raises(ValueError, match="not bfloat16"):
        storage.bfloat16_entropy(np.array([1.001]))


def test_bytes_of_variables(tmp_path):
    with h5py.File(tmp_path / "file.nc", "w") as file:
        file["plain"] = np.arange(1000, dtype=np.float32)
        file.create_dataset("packed", data=np.zeros(1000, dtype=np.float32), chunks=(100,), compression=1)
    found = storage.variable_bytes(tmp_path / "file.nc")
    assert found["plain"] == 4000 and 0 < found["packed"] < 400


def test_storage_counts_what_is_in_the_file(tmp_path):
    path = storage.write_layer(tmp_path, torch.bfloat16, "exact", "tiny", TOKENS)
    with h5py.File(path) as file:
        logits = file["router_logits"][:]
    assert logits.shape == (300, 64) and 5 < storage.bfloat16_entropy(logits) < 16
    found = storage.variable_bytes(path)
    assert {"router_logits", "selected_expert"} <= set(found)
    assert 0 < sum(found.values()) < path.stat().st_size


@pytest.fixture
def jobs(monkeypatch):
    """The script and usage of every job; they run in copies of this process, which has their packages already.

    Only one chapter is plotted, which takes longest; the others have no figures.
    """
    found = []

    def run(script, modules, input, output, params=None, wildcards=None):
        request = {
            "script": script,
            "modules": [],
            "input": input,
            "output": output,
            "params": params or {},
            "wildcards": wildcards or {},
        }
        if script == "plot_chapter" and wildcards["chapter"] != "token_overlap":
            output["figures"].mkdir(parents=True)
            (output["figures"] / "chapter.json").write_text(
                '{"figures": [], "findings": [], "brief": null, "served": null, "explored": null}'
            )
            return None
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as process:
            usage = process.submit(job.main, json.loads(json.dumps(request, default=str))).result()
        found.append((script, usage))
        return usage

    monkeypatch.setattr(measuring, "run_job", run)
    return found


@pytest.mark.slow
def test_the_whole_report_of_a_synthetic_study_is_made_and_weighed(tmp_path, jobs):
    config = analysis.whole_config()
    config["statistics"]["resamples"] = config["domain_specialization"]["permutations"] = 20
    config["token_overlap"]["rarefied_tokens"] = 10
    made, usage = report.build(tmp_path, analysis.Size(1400, 2, 2), config)
    scripts = [script for script, _ in jobs]
    others = ["profile_experts", "build_browser", "plot_chapter", "build_report"]
    assert scripts == [analysis.TALLY, *analysis.MODULES, *others]
    assert all(min(one.seconds, one.processor) > 0 and one.peak >= one.start > 0 for _, one in jobs)
    assert usage == dict(jobs)["build_browser"]
    tally = files.load(tmp_path / "tally_1.nc")
    assert int(tally["tokens"].sum()) == 700 and tally.sizes["layer"] == 2 and tally.sizes["expert"] == 64
    for chapter in analysis.CHAPTERS:
        metrics = files.load(tmp_path / "metrics" / analysis.RUN / f"{chapter}.nc")
        of = 560 if chapter in ("placement", "reuse") else 1400  # tokens of the clusters that nothing is learned on
        assert int(metrics["tokens"].sel(dataset="pooled")) == of
        assert metrics.sizes["layer"] == (
            1 if chapter in ("transitions", "paths") else 2
        )  # pairs and windows of layers
    rows = report.weight(made, usage, {"megabytes": 20, "download_megabytes": 0.001})
    assert [row.met for row in rows if row.goal] == ["yes", "yes", "yes", "no"]
    total = sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) / 1e6
    shown, linked = (
        next(row for row in rows if row.what == f"what the report {what}") for what in ("shows", "links to")
    )
    assert sum(numbers([shown, linked])) == pytest.approx(total, abs=0.02)
    kinds = {row.what for row in rows}
    assert {"- pairs", "- plots", "- figures/*.svg", "- browser/*.js", "- data/*.nc", "- tables/*.csv"} <= kinds


def test_without_a_browser_pages_have_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PROGRAMS", ("no_such_program",))
    assert [row.measured for row in report.speed(tmp_path)] == ["not measured: needs selenium, no_such_program"]


def test_pages_are_timed(tmp_path):
    if not all(map(shutil.which, report.PROGRAMS)):
        pytest.skip(f"{' and '.join(report.PROGRAMS)} not found")
    (tmp_path / "index.html").write_text("<p>A page.")
    (tmp_path / "browser-random.html").write_text("<div id=browser aria-busy=false>")
    rows = report.speed(tmp_path)
    assert [row.what for row in rows] == ["browser-random.html: loaded", "index.html: loaded", "an expert: shown"]
    assert min(numbers(rows)) >= 0


def test_routing_of_the_synthetic_study_depends_on_the_token(tmp_path):
    tokens, routing = analysis.make_study(tmp_path, analysis.Size(8000, 2, 1))
    for path, folder in zip(tokens, routing, strict=True):
        token_id, layer = load_tokens(path)["token_id"].values, files.load(folder / "layer_0.nc")
        most = np.flatnonzero(token_id == np.bincount(token_id).argmax())
        first = np.bincount(layer["selected_expert"].values[most, 0], minlength=64)
        assert first.max() / len(most) > 3 / 64
        logits, selected = layer["router_logits"].values, layer["selected_expert"].values.astype(int)
        chosen = np.take_along_axis(logits, selected, axis=1)
        np.testing.assert_array_equal(np.sort(chosen), np.sort(logits)[:, -8:])


def test_rows_of_the_analysis():
    one, other = Usage(2.0, 1.5, 0.5, 150_000_000, 100_000_000), Usage(100.0, 90.0, 1.0, 1_900_000_000, 100_000_000)
    rows = analysis.whole({"tally": [one, one], "measure": [other]})
    assert [row.what for row in rows[::2]] == [
        "tally, 2 jobs",
        "measure",
        "analysis of a study, one core",
        "- imports, not included",
    ]
    assert numbers(rows) == [4, 150, 100, 1900, 104, 93, 2, 1900]
    assert [row.met for row in rows if row.goal] == ["yes", "yes"]


def test_rows_of_memory_tell_what_a_token_takes():
    one, (flat, *_) = Usage(2.0, 1.5, 0.5, 150_000_000, 100_000_000), memory.FLAT_JOBS
    peaks = {1000: 150, 10_000: 180, 20_000: 181}
    rows = memory.growth(
        {tokens: dict.fromkeys((flat, "other"), replace(one, peak=peak * 10**6)) for tokens, peak in peaks.items()}
    )
    assert rows[0] == Row(f"{flat}: peak memory with 1,000, 10,000, 20,000 tokens", "150, 180, 181 MB")
    assert numbers(rows[1:3]) == [100, 100] and [row.what for row in rows[1:3]] == ["- packages", "- a token"]
    assert rows[3] == Row("- 10,000 tokens / 1,000 tokens", "1.20 x", "at most 1.25", "yes")
    assert [row.what.split(":")[0] for row in rows[4:]] == ["other", "- packages", "- a token"]


def test_published_ways_give_the_outputs_of_ours(model, records, tokens, tmp_path):
    ours = published.from_records(records)
    documents = published.logits_of_documents(records, tokens[1], 300)
    assert [document.shape[1] for document in documents] == np.diff(np.append(tokens[1], 300)).tolist()
    logits = np.concatenate(documents, axis=1)
    best = np.argsort(-logits, axis=-1)
    for layer in range(3):
        chosen = best[layer, :, :8]
        assert ours.selected[layer].tolist() == [(chosen == expert).sum() for expert in range(64)]
        assert ours.first[layer].tolist() == [(chosen[:, 0] == expert).sum() for expert in range(64)]
    entropy = scipy.stats.entropy(scipy.special.softmax(logits, axis=-1), axis=-1).mean(axis=-1)
    np.testing.assert_allclose(ours.entropy, entropy, rtol=1e-5)
    ways = [
        (published.from_counters(documents, 8, tmp_path / "lines.jsonl"), 1e-5),
        (published.from_data_frame(documents, 8), 1e-5),
        (published.from_records(published.write(tmp_path, model, *tokens, "compact")), 2**-8),
    ]
    for theirs, tolerance in ways:
        np.testing.assert_array_equal(theirs.selected, ours.selected)
        np.testing.assert_array_equal(theirs.first, ours.first)
        np.testing.assert_allclose(theirs.entropy, ours.entropy, rtol=tolerance)
    lines = (tmp_path / "lines.jsonl").read_text().splitlines()
    assert len(lines) == len(documents) and json.loads(lines[0])["selected"] == best[:, : tokens[1][1], :8].tolist()


def test_logits_stop_at_the_wanted_token(records, tokens):
    documents = published.logits_of_documents(records, tokens[1], 100)
    assert sum(document.shape[1] for document in documents) == 100


def test_one_pass_per_layer_gives_the_logits_of_one_pass(model):
    batch = torch.arange(1, 41).reshape(2, 20)
    kept = published.layer_by_layer(model, [batch])
    with torch.inference_mode():
        expected = model(input_ids=batch, output_router_logits=True).router_logits
    assert list(kept) == [0, 1, 2]
    assert all(torch.equal(kept[layer][0], expected[layer]) for layer in kept)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_the_same_code_on_the_cpu(capsys, jobs):
    gpu.main(["--size", "tiny", "--device", "cpu", "--rounds", "1", "--threads", "1", "--tokens-per-batch", "128"])
    printed = capsys.readouterr().out
    for what in ("GFLOP", "128 tokens per batch: extraction, exact records", "tokens/s", "extraction / base model"):
        assert what in printed
    assert "at least" not in printed  # the goal is one of the full size
    assert "aten::" in printed
    for what in ("loading the model", "records and tally written", "compressing, all threads", "chapters that read"):
        assert what in printed
    assert [script for script, _ in jobs] == [
        f"measure_{name}" for name, chapter in analysis.CHAPTERS.items() if chapter.reads == "tallies"
    ]


def test_seconds_are_those_of_all_threads_and_functions_are_put_back():
    place = type("Place", (), {"work": staticmethod(lambda wait: time.sleep(wait) or wait)})
    before = place.work
    with gpu.clocked({"work": (place, "work")}) as seconds, ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda wait: place.work(wait), [0.01, 0.02])) == [0.01, 0.02]
    assert seconds["work"] >= 0.03
    assert place.work is before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_without_a_gpu_says_so(capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main([])
    assert stopped.value.code == 2 and "no GPU is visible" in capsys.readouterr().err


def test_start_up_is_that_of_the_imports_that_stand_outside_of_functions(tmp_path, monkeypatch):
    script = tmp_path / "tally_nothing.py"
    script.write_text(
        "import json\nfrom pathlib import Path\n\n\ndef late():\n    import not_there\n\n\nstart(snakemake)\n"
    )
    assert startup.imports(script) == "import json\nfrom pathlib import Path"
    monkeypatch.setattr(startup, "SCRIPTS", tmp_path)
    (row,) = startup.rows()
    assert row.what == "start-up of `tally_nothing`" and numbers([row])[0] > 0
