rule measure_vocabulary_specialization:
    """Whether the token id decides which expert a token is sent to, per layer and kind of token."""
    input:
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
        untrained=untrained("vocabulary_specialization"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/vocabulary_specialization.nc",
        draws="results/draws/{model}/{checkpoint}/vocabulary_specialization.nc",
        table="results/tables/{model}/{checkpoint}/vocabulary_specialization.csv",
    log:
        "results/logs/measure_vocabulary_specialization/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=130),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_vocabulary_specialization.py"),
        model=model_settings("trust_remote_code"),
        settings=settings("vocabulary_specialization"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_vocabulary_specialization.py"
