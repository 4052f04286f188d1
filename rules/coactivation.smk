rule measure_coactivation:
    """Which experts are selected together, against what their loads explain."""
    input:
        tallies=tallies,
        untrained=untrained("coactivation"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/coactivation.nc",
        draws="results/draws/{model}/{checkpoint}/coactivation.nc",
        table="results/tables/{model}/{checkpoint}/coactivation.csv",
    log:
        "results/logs/measure_coactivation/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=50),
        runtime=growing(60, per_million=0.5),
    params:
        code=code("measure_coactivation.py"),
        statistics=statistics("confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_coactivation.py"
