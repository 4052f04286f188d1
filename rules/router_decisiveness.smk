rule measure_router_decisiveness:
    """How sure the router is of its choice, per layer and dataset."""
    input:
        tallies=tallies_by_variant,
        untrained=untrained("router_decisiveness"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/router_decisiveness.nc",
        draws="results/draws/{model}/{checkpoint}/router_decisiveness.nc",
        table="results/tables/{model}/{checkpoint}/router_decisiveness.csv",
    log:
        "results/logs/measure_router_decisiveness/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=50),
        runtime=growing(60, per_million=0.5),
    params:
        code=code("measure_router_decisiveness.py"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_router_decisiveness.py"
