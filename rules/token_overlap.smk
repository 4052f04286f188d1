rule measure_token_overlap:
    """Whether the experts of a layer share their vocabulary."""
    input:
        tokens=tokens,
        records=records,
        untrained=untrained("token_overlap"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/token_overlap.nc",
        draws="results/draws/{model}/{checkpoint}/token_overlap.nc",
        table="results/tables/{model}/{checkpoint}/token_overlap.csv",
    log:
        "results/logs/measure_token_overlap/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=80),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_token_overlap.py"),
        settings=settings("token_overlap"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_token_overlap.py"
