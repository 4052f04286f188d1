"""All benchmarks that need no GPU, as one table."""

from benchmarks import analysis, browser, extraction, measuring, published, storage

print(f"On {measuring.machine()}:\n")
print(measuring.table([row for script in (extraction, storage, analysis, browser, published) for row in script.rows()]))
