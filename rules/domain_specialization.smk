rule measure_domain_specialization:
    """Whether experts serve particular kinds of text, per layer and dataset."""
    input:
        tallies=tallies_by_variant,
        untrained=untrained("domain_specialization"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/domain_specialization.nc",
        draws="results/draws/{model}/{checkpoint}/domain_specialization.nc",
        table="results/tables/{model}/{checkpoint}/domain_specialization.csv",
    log:
        "results/logs/measure_domain_specialization/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=50),
        runtime=growing(60, per_million=0.5),
    params:
        code=code("measure_domain_specialization.py"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
        settings=settings("domain_specialization"),
    script:
        "../scripts/measure_domain_specialization.py"
