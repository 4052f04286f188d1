rule measure_determinants:
    """What decides where a token goes: its id, the tokens before it, its dataset, or its position."""
    input:
        tokens=tokens_by_variant,
        records=records_by_variant,
        untrained=untrained("determinants"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/determinants.nc",
        draws="results/draws/{model}/{checkpoint}/determinants.nc",
        table="results/tables/{model}/{checkpoint}/determinants.csv",
    log:
        "results/logs/measure_determinants/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=500),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_determinants.py"),
        settings=settings("determinants"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_determinants.py"
