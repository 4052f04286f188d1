"""Peak memory of the jobs of a synthetic study by the number of its tokens: which stay as they are, which grow.

Jobs read one layer after another, so their memory does not depend on the number of layers.
"""

import tempfile
from pathlib import Path

from benchmarks import analysis, measuring, report
from benchmarks.analysis import Size
from benchmarks.measuring import Row, Usage

SIZES = tuple(Size(tokens, 1, 2) for tokens in (100_000, 1_000_000, 4_000_000))
FLAT, FLAT_JOBS = 1.25, (analysis.TALLY, "measure_router_decisiveness")
"""Goal: ten times the tokens take these jobs, which hold no tokens, at most so many times the memory."""


def jobs_of(size: Size, config: dict) -> dict[str, Usage]:
    """Memory of every kind of job on a new study of one dataset, by the name of its script."""
    measuring.say(f"memory: {size}")
    with tempfile.TemporaryDirectory() as folder:
        used = analysis.analyse(Path(folder), size, config)
        return {script: jobs[0] for script, jobs in used.items()} | report.expert_pages(Path(folder), size, config)


def growth(usages: dict[int, dict[str, Usage]]) -> list[Row]:
    """Peak memory of the jobs by the number of tokens, increasing, and the bytes that each token between the last two
    numbers takes."""
    found, (few, *_, many, most) = [], usages
    for job in usages[few]:
        peaks = {tokens: jobs[job].peak for tokens, jobs in usages.items()}
        values = ", ".join(f"{peak / 1e6:,.0f}" for peak in peaks.values())
        found.append(
            Row(f"{job}: peak memory with {', '.join(f'{tokens:,}' for tokens in peaks)} tokens", f"{values} MB")
        )
        found.append(measuring.judged("- packages", usages[few][job].start / 1e6, "MB"))
        found.append(measuring.judged("- a token", (peaks[most] - peaks[many]) / (most - many), "B"))
        if job in FLAT_JOBS:
            what = f"- {many:,} tokens / {few:,} tokens"
            found.append(measuring.judged(what, peaks[many] / peaks[few], "x", at_most=FLAT))
    return found


def rows() -> list[Row]:
    """Peak memory of all jobs that need no model, with the settings of `config/config.yaml`."""
    config = report.settings()
    return growth({size.tokens: jobs_of(size, config) for size in SIZES})


if __name__ == "__main__":
    print(measuring.table(rows()))
