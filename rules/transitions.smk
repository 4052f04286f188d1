rule measure_transitions:
    """What a token's choice of experts in one layer says about its choice in the next layer."""
    input:
        tokens=tokens,
        records=records,
        untrained=untrained("transitions"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/transitions.nc",
        draws="results/draws/{model}/{checkpoint}/transitions.nc",
        table="results/tables/{model}/{checkpoint}/transitions.csv",
    log:
        "results/logs/measure_transitions/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=1200),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_transitions.py"),
        settings=settings("transitions"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_transitions.py"
