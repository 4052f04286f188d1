rule measure_expert_circuits:
    """Which experts and attention are enough for a behaviour, and through which edges they reach the answer."""
    input:
        folder=studied_folder,
        checkpoints=training_folders,
        pairs=task_pairs,
        description=studied_description,
    output:
        metrics="results/metrics/{model}/expert_circuits.nc",
        table="results/tables/{model}/expert_circuits.csv",
    log:
        "results/logs/measure_expert_circuits/{model}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("measure_expert_circuits.py"),
        studied=lambda wildcards: study.studied_checkpoint(wildcards.model),
        checkpoints=several_checkpoints,
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("expert_circuits"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_expert_circuits.py"
