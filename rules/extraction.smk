"""Extraction: one forward pass per model, checkpoint and dataset; then tallies, which all chapters read."""


rule extract_routing:
    """What every router received, decided and returned for every token: one file per layer."""
    input:
        folder=model_folder,
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        tokens="results/inputs/{model}/{dataset}.nc",
    output:
        records=perhaps_temporary(directory("results/routing/{model}/{checkpoint}/{dataset}")),
    log:
        "results/logs/extract_routing/{model}/{checkpoint}/{dataset}.log",
    benchmark:
        "results/benchmarks/extract_routing/{model}/{checkpoint}/{dataset}.tsv"
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("extract_routing.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        extraction=config["extraction"],
    script:
        "../scripts/extract_routing.py"


rule tally_routing:
    """Small additive statistics of a dataset's records: counts, sums and histograms per document."""
    input:
        tokens="results/inputs/{model}/{dataset}.nc",
        records="results/routing/{model}/{checkpoint}/{dataset}",
    output:
        tally="results/tallies/{model}/{checkpoint}/{dataset}.nc",
    log:
        "results/logs/tally_routing/{model}/{checkpoint}/{dataset}.log",
    wildcard_constraints:
        model=MODEL_WITH_TOKENS,
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    params:
        code=code("tally_routing.py"),
    script:
        "../scripts/tally_routing.py"
