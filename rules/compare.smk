rule measure_compare:
    """How the routing of other runs (B) differs from that of the first run of `compare` (A), by relative depth."""
    input:
        tallies=of_runs("results/tallies/{model}/{checkpoint}/{dataset}.nc"),
        models=of_runs("results/inputs/{model}/checkpoints/{checkpoint}.json"),
        trainings=trained("results/demo/training/{model}.nc"),
    output:
        metrics="results/metrics/runs/compare.nc",
        table="results/tables/runs/compare.csv",
    log:
        "results/logs/measure_compare.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=100),
        runtime=growing(60, per_million=1),
    params:
        code=code("measure_compare.py"),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
        untrained=compared_untrained(),
    script:
        "../scripts/measure_compare.py"
