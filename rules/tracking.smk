"""Weights & Biases, if the config asks for it: one job at the end, by which nothing else changes."""


localrules:
    track_wandb,


rule track_wandb:
    """Log config, findings, measures, figures and the report as a run of Weights & Biases."""
    input:
        report="results/report",
        figures=shown("results/figures/{of}/{chapter}"),
        tables=[path.replace("/metrics/", "/tables/").replace(".nc", ".csv") for path in every_metrics()],
        transitions=[path for path in every_metrics() if path.endswith("/transitions.nc")],
    output:
        logged="results/tracking.json",
    log:
        "results/logs/track_wandb.log",  # no conda environment: it runs where the package was installed by hand
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("track_wandb.py"),
        settings=config["tracking"]["wandb"],
        config=config,
    script:
        "../scripts/track_wandb.py"
