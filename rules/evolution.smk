rule measure_evolution:
    """What training changes: when routing settles, what of it token ids alone explain, and loads on the way."""
    input:
        tokenizer=tokenizer_folder,
        tokens=tokens,
        records=training_records,
        selections=training_selections,
        reach=beside("evolution"),
    output:
        metrics="results/metrics/{model}/evolution.nc",
        table="results/tables/{model}/evolution.csv",
    log:
        "results/logs/measure_evolution/{model}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=500),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_evolution.py"),
        checkpoints=lambda wildcards: study.models[wildcards.model]["training_checkpoints"],
        untrained=lambda wildcards: study.models[wildcards.model].get("untrained", ""),
        model=model_settings("trust_remote_code"),
        settings=settings("evolution"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_evolution.py"
