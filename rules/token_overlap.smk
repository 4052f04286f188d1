"""Whether the experts of a layer share their vocabulary."""


rule measure_token_overlap:
    """Whether the experts of a layer share their vocabulary."""
    input:
        tokens=tokens,
        records=records,
    output:
        metrics="results/metrics/{model}/{checkpoint}/token_overlap.nc",
        table="results/tables/{model}/{checkpoint}/token_overlap.csv",
    log:
        "results/logs/measure_token_overlap/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=80),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_token_overlap.py"),
        settings=config["token_overlap"],
        statistics={key: config["statistics"][key] for key in ("seed", "confidence")},
    script:
        "../scripts/measure_token_overlap.py"


rule plot_token_overlap:
    """Figures and findings on whether the experts of a layer share their vocabulary."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/token_overlap.nc",
        untrained=untrained_metrics("token_overlap"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/token_overlap"),
            patterns=["{figure}.svg"],
            caption="../report/captions/token_overlap.rst",
            category="{model}, {checkpoint}",
            subcategory="token_overlap",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_token_overlap/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_token_overlap.py"),
    script:
        "../scripts/plot_token_overlap.py"
