rule measure_steering:
    """Whether text can be steered by what is added to routing, and what that costs."""
    input:
        folder=lambda wildcards: model_folder(studied_of(wildcards)),
        tokenizer=tokenizer_folder,
        tokens=tokens,
        tallies=lambda wildcards: tallies(studied_of(wildcards)),
    output:
        metrics="results/metrics/{model}/steering.nc",
        table="results/tables/{model}/steering.csv",
    log:
        "results/logs/measure_steering/{model}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        code=code("measure_steering.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("steering") | {"pairs": contrasts()},
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_steering.py"
