rule measure_annotation:
    """What each expert is for, as a label that is chosen on one half of the clusters and scored on the other."""
    input:
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
        named=named_experts,
        untrained=untrained("annotation"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/annotation.nc",
        draws="results/draws/{model}/{checkpoint}/annotation.nc",
        table="results/tables/{model}/{checkpoint}/annotation.csv",
    log:
        "results/logs/measure_annotation/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1500, per_million=300),
        runtime=growing(60, per_million=5),
    params:
        code=code("measure_annotation.py"),
        model=model_settings("trust_remote_code"),
        languages=study.languages,
        settings=settings("annotation"),
        confidence=config["statistics"]["confidence"],
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_annotation.py"
