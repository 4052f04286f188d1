rule measure_multiple_choice_models:
    """Which experts a right answer needs in each of the runs of `compare`."""
    input:
        metrics=of_runs("results/metrics/{model}/{checkpoint}/multiple_choice.nc"),
    output:
        metrics="results/metrics/runs/multiple_choice_models.nc",
        table="results/tables/runs/multiple_choice_models.csv",
    log:
        "results/logs/measure_multiple_choice_models.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("measure_multiple_choice_models.py"),
    script:
        "../scripts/measure_multiple_choice_models.py"
