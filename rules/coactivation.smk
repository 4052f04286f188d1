"""Which experts are selected together, against what their loads explain."""


rule measure_coactivation:
    """Which experts are selected together, against what their loads explain."""
    input:
        tallies=tallies,
    output:
        metrics="results/metrics/{model}/{checkpoint}/coactivation.nc",
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
        confidence=config["statistics"]["confidence"],
    script:
        "../scripts/measure_coactivation.py"


rule plot_coactivation:
    """Figures and findings on which experts are selected together."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/coactivation.nc",
        untrained=untrained_metrics("coactivation"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/coactivation"),
            patterns=["{figure}.svg"],
            caption="../report/captions/coactivation.rst",
            category="{model}, {checkpoint}",
            subcategory="coactivation",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_coactivation/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_coactivation.py"),
        thresholds={name: config["report"]["thresholds"][name] for name in ("strong_lift", "remaining_lift")},
    script:
        "../scripts/plot_coactivation.py"
