"""Multiple choice: items of MMLU or of the study's text."""

CHOICE_FILES = choice_files()


rule measure_multiple_choice:
    """Which experts a right answer needs, beyond as much weight of others."""
    input:
        folder=model_folder,
        tokenizer=tokenizer_folder,
        tokens=[] if CHOICE_FILES else tokens,
        rows=CHOICE_FILES,
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        untrained=untrained("multiple_choice"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/multiple_choice.nc",
        draws="results/draws/{model}/{checkpoint}/multiple_choice.nc",
        table="results/tables/{model}/{checkpoint}/multiple_choice.csv",
        contrasts="results/tables/{model}/{checkpoint}/multiple_choice_contrasts.csv",
    log:
        "results/logs/measure_multiple_choice/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("measure_multiple_choice.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        read=model_settings("layers", "window"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("multiple_choice"),
        # Of the checkpoints that are not studied only the answers are known: they show what chance is.
        changes=lambda wildcards: study.studied_checkpoint(wildcards.model) == wildcards.checkpoint,
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_multiple_choice.py"
