rule measure_meaning:
    """Whether the meaning of a token decides where it goes, beyond its token id."""
    input:
        folder=model_folder,
        tokenizer=tokenizer_folder,
        probes=probe_files(),
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        untrained=untrained("meaning"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/meaning.nc",
        draws="results/draws/{model}/{checkpoint}/meaning.nc",
        table="results/tables/{model}/{checkpoint}/meaning.csv",
    log:
        "results/logs/measure_meaning/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code("measure_meaning.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        read=model_settings("layers", "window"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        probes=PROBES,
        settings=settings("meaning"),
        confidence=config["statistics"]["confidence"],
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_meaning.py"
