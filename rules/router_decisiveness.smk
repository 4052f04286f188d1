"""How sure the router is of its choice, per layer and dataset."""


rule measure_router_decisiveness:
    """How sure the router is of its choice, per layer and dataset."""
    input:
        tallies=tallies,
    output:
        metrics="results/metrics/{model}/{checkpoint}/router_decisiveness.nc",
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
        statistics=config["statistics"],
    script:
        "../scripts/measure_router_decisiveness.py"


rule plot_router_decisiveness:
    """Figures and findings on how sure the router is of its choice."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/router_decisiveness.nc",
        untrained=untrained_metrics("router_decisiveness"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/router_decisiveness"),
            patterns=["{figure}.svg"],
            caption="../report/captions/router_decisiveness.rst",
            category="{model}, {checkpoint}",
            subcategory="router_decisiveness",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_router_decisiveness/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_router_decisiveness.py"),
        thresholds=config["report"]["thresholds"],
    script:
        "../scripts/plot_router_decisiveness.py"
