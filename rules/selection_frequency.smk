"""How evenly each layer spreads its tokens over the experts."""


rule measure_selection_frequency:
    """How evenly each layer spreads its tokens over the experts."""
    input:
        tallies=tallies,
    output:
        metrics="results/metrics/{model}/{checkpoint}/selection_frequency.nc",
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
        statistics=config["statistics"],
        capacity=config["selection_frequency"],
    script:
        "../scripts/measure_selection_frequency.py"


rule plot_selection_frequency:
    """Figures and findings on how evenly each layer spreads its tokens."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/selection_frequency.nc",
        untrained=untrained_metrics("selection_frequency"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/selection_frequency"),
            patterns=["{figure}.svg"],
            caption="../report/captions/selection_frequency.rst",
            category="{model}, {checkpoint}",
            subcategory="selection_frequency",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_selection_frequency/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_selection_frequency.py"),
        thresholds=config["report"]["thresholds"],
    script:
        "../scripts/plot_selection_frequency.py"
