rule measure_placement:
    """What placing experts on devices saves in traffic and costs in stragglers; and the loads, for a server that places."""
    input:
        tokens=tokens,
        records=records,
        tallies=tallies,
        untrained=untrained("placement"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/placement.nc",
        draws="results/draws/{model}/{checkpoint}/placement.nc",
        table="results/tables/{model}/{checkpoint}/placement.csv",
        location="results/tables/{model}/{checkpoint}/expert_location.json",
    log:
        "results/logs/measure_placement/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=500),
        runtime=growing(60, per_million=5),
    params:
        code=code("measure_placement.py"),
        settings=settings("placement"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_placement.py"
