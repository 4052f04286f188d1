rule measure_attention_heads:
    """What attention heads look for in repeated random tokens, and what they do for the study's tasks."""
    input:
        folder=model_folder,
        tokenizer=tokenizer_folder,
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        pairs=task_pairs,
        untrained=untrained("attention_heads"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/attention_heads.nc",
        draws="results/draws/{model}/{checkpoint}/attention_heads.nc",
        table="results/tables/{model}/{checkpoint}/attention_heads.csv",
    log:
        "results/logs/measure_attention_heads/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        code=code("measure_attention_heads.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("attention_heads"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_attention_heads.py"
