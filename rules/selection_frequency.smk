rule measure_selection_frequency:
    """How evenly each layer spreads its tokens over the experts."""
    input:
        tallies=tallies_by_variant,
        untrained=untrained("selection_frequency"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/selection_frequency.nc",
        draws="results/draws/{model}/{checkpoint}/selection_frequency.nc",
        table="results/tables/{model}/{checkpoint}/selection_frequency.csv",
    log:
        "results/logs/measure_selection_frequency/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=50),
        runtime=growing(60, per_million=0.5),
    params:
        code=code("measure_selection_frequency.py"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
        settings=settings("selection_frequency"),
    script:
        "../scripts/measure_selection_frequency.py"
