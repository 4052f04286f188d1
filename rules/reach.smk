rule measure_reach:
    """How much text before a token its routing needs, and how much of it another way of computing leaves."""
    input:
        folder=model_folder,
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
        untrained=untrained("reach"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/reach.nc",
        draws="results/draws/{model}/{checkpoint}/reach.nc",
        table="results/tables/{model}/{checkpoint}/reach.csv",
    log:
        "results/logs/measure_reach/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000, per_million=100),
        runtime=growing(120),
    params:
        code=code("measure_reach.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("reach"),
        confidence=config["statistics"]["confidence"],
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_reach.py"
