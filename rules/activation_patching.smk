rule measure_activation_patching:
    """Which parts of a model carry the behaviours of the study's tasks."""
    input:
        folder=model_folder,
        pairs=task_pairs,
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        untrained=untrained("activation_patching"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/activation_patching.nc",
        draws="results/draws/{model}/{checkpoint}/activation_patching.nc",
        table="results/tables/{model}/{checkpoint}/activation_patching.csv",
    log:
        "results/logs/measure_activation_patching/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("measure_activation_patching.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("activation_patching"),
        # Of the checkpoints that are not studied only the gate is known: it shows what chance is.
        patches=lambda wildcards: study.studied_checkpoint(wildcards.model) == wildcards.checkpoint,
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_activation_patching.py"
