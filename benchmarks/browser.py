"""Time, memory and size of the expert browser's data, for a synthetic study of twelve datasets of 80,000 tokens."""

import tempfile
from pathlib import Path

import yaml

from benchmarks import analysis, measuring
from benchmarks.measuring import Row, Usage
from moeatlas import browser

SIZE = analysis.Size(960_000, 12, 16)
SCRIPT, MODULES = "build_browser", ("netCDF4", "moeatlas.browser", "transformers")
SECONDS, PEAK, MEGABYTES = 600.0, 3000.0, 20.0


def build(folder: Path, size: analysis.Size, config: dict) -> tuple[Usage, dict[str, int]]:
    """Time and memory of the job on a new study, and bytes of the browser's files by kind."""
    tokens, records = analysis.make_study(folder, size)
    input = {"tokens": tokens, "records": records, "tokenizer": analysis.make_tokenizer(folder / "tokenizer")}
    output = {"shards": folder / "browser", "table": folder / "expert_sets.csv"}
    params = {"model": {}, "settings": config["browser"], "confidence": config["statistics"]["confidence"]}
    usage = measuring.run_job(SCRIPT, MODULES, input, output, params)
    files = {path.relative_to(output["shards"]).as_posix(): path.read_text() for path in output["shards"].rglob("*.js")}
    return usage, browser.size_by_kind(files)


def rows() -> list[Row]:
    """Seconds, peak memory, and megabytes of all files and of each kind."""
    config = yaml.safe_load((measuring.ROOT / "config" / "config.yaml").read_text())
    measuring.say(f"browser: {SIZE}")
    with tempfile.TemporaryDirectory() as folder:
        return summary(*build(Path(folder), SIZE, config))


def summary(usage: Usage, sizes: dict[str, int]) -> list[Row]:
    """The rows of `rows`."""
    return [
        measuring.judged(
            "data of the expert browser, 960,000 tokens, 16 layers: time", usage.seconds, "s", at_most=SECONDS
        ),
        measuring.judged("- processor time", usage.processor, "s"),
        measuring.judged("- peak memory", usage.peak / 1e6, "MB", at_most=PEAK),
        measuring.judged("- files", sum(sizes.values()) / 1e6, "MB", at_most=MEGABYTES),
        *(measuring.judged(f"- of which {kind}", size / 1e6, "MB") for kind, size in sizes.items()),
    ]


if __name__ == "__main__":
    print(measuring.table(rows()))
