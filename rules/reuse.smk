rule measure_reuse:
    """What caches of experts hit, and what is told of the experts of the next layer and of the next token."""
    input:
        tokens=tokens,
        records=records,
        untrained=untrained("reuse"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/reuse.nc",
        draws="results/draws/{model}/{checkpoint}/reuse.nc",
        table="results/tables/{model}/{checkpoint}/reuse.csv",
    log:
        "results/logs/measure_reuse/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=500),
        runtime=growing(60, per_million=5),
    params:
        code=code("measure_reuse.py"),
        settings=settings("reuse"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_reuse.py"
