rule measure_paths:
    """Whether few paths through some layers carry most tokens, and which of them belong to a dataset."""
    input:
        tokens=tokens,
        records=records,
        untrained=untrained("paths"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/paths.nc",
        draws="results/draws/{model}/{checkpoint}/paths.nc",
        table="results/tables/{model}/{checkpoint}/paths.csv",
    log:
        "results/logs/measure_paths/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=500),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_paths.py"),
        settings=settings("paths"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_paths.py"
