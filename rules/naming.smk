"""Naming: the model names its own experts, which the chapter annotation reads."""


rule name_experts:
    """What a model itself says that some of its experts are for: a label of each, and its own words."""
    input:
        folder=model_folder,
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
    output:
        named="results/named/{model}/{checkpoint}.nc",
    log:
        "results/logs/name_experts/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000, per_million=150),
        runtime=growing(120),
    params:
        code=code("name_experts.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        languages=study.languages,
        settings=settings("annotation"),
    script:
        "../scripts/name_experts.py"
