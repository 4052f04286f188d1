rule measure_logit_lens:
    """What each layer already knows of the next token, and what experts write for it."""
    input:
        folder=model_folder,
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
        untrained=untrained("logit_lens"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/logit_lens.nc",
        draws="results/draws/{model}/{checkpoint}/logit_lens.nc",
        table="results/tables/{model}/{checkpoint}/logit_lens.csv",
        tokens="results/tables/{model}/{checkpoint}/promoted_tokens.csv",
    log:
        "results/logs/measure_logit_lens/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000, per_million=100),
        runtime=growing(120),
    params:
        code=code("measure_logit_lens.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("logit_lens"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_logit_lens.py"
