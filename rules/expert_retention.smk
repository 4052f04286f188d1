rule measure_expert_retention:
    """How much of what a model predicts is left with few experts of each layer."""
    input:
        folder=model_folder,
        tallies=tallies,
        tokens=tokens,
        scan=scanned,
        untrained=untrained("expert_retention"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/expert_retention.nc",
        draws="results/draws/{model}/{checkpoint}/expert_retention.nc",
        table="results/tables/{model}/{checkpoint}/expert_retention.csv",
        sets="results/tables/{model}/{checkpoint}/expert_retention.json",
    log:
        "results/logs/measure_expert_retention/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        code=code("measure_expert_retention.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("expert_retention"),
        statistics=statistics("seed", "resamples"),
        confidence=config["statistics"]["confidence"],
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_expert_retention.py"
