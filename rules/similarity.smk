rule measure_similarity:
    """How alike the experts of a layer are: their outputs for the same tokens, their weights, their router rows."""
    input:
        folder=model_folder,
        tokens=tokens,
        records=records,
        coactivation="results/metrics/{model}/{checkpoint}/coactivation.nc",
        token_overlap="results/metrics/{model}/{checkpoint}/token_overlap.nc",
        untrained=untrained("similarity"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/similarity.nc",
        draws="results/draws/{model}/{checkpoint}/similarity.nc",
        table="results/tables/{model}/{checkpoint}/similarity.csv",
    log:
        "results/logs/measure_similarity/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000 + 150 * config["extraction"]["threads"]),
        runtime=growing(480),
    params:
        code=code("measure_similarity.py"),
        model=model_settings("dtype", "device", "experts"),
        threads=config["extraction"]["threads"],
        settings=settings("similarity"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_similarity.py"
