"""All benchmarks that need no GPU, as one table."""

from benchmarks import analysis, extraction, measuring, memory, published, report, startup, storage, traces

SCRIPTS = (extraction, storage, analysis, memory, report, published, startup, traces)

print(f"On {measuring.machine()}:\n")
print(measuring.table([row for script in SCRIPTS for row in script.rows()]))
