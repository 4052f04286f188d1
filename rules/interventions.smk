rule measure_interventions:
    """What changing one expert does, in prompts and datasets as the config asks for it."""
    input:
        folder=lambda wildcards: model_folder(studied_of(wildcards)),
        tokenizer=tokenizer_folder,
        tokens=tokens,
        tallies=lambda wildcards: tallies(studied_of(wildcards)),
    output:
        metrics="results/metrics/{model}/interventions.nc",
        table="results/tables/{model}/interventions.csv",
    log:
        "results/logs/measure_interventions/{model}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code("measure_interventions.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=lambda wildcards: settings("interventions") | {"asked": asked(wildcards.model)},
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_interventions.py"
