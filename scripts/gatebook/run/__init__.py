"""One run of the workflow: its configuration, jobs, receipts, provenance. Nothing here changes what a job computes."""
