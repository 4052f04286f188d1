"""Whether experts serve particular kinds of text, per layer and dataset."""


rule measure_domain_specialization:
    """Whether experts serve particular kinds of text, per layer and dataset."""
    input:
        tallies=tallies,
    output:
        metrics="results/metrics/{model}/{checkpoint}/domain_specialization.nc",
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
        statistics=config["statistics"],
        permutation=config["domain_specialization"],
    script:
        "../scripts/measure_domain_specialization.py"


rule plot_domain_specialization:
    """Figures and findings on whether experts serve particular kinds of text."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/domain_specialization.nc",
        untrained=untrained_metrics("domain_specialization"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/domain_specialization"),
            patterns=["{figure}.svg"],
            caption="../report/captions/domain_specialization.rst",
            category="{model}, {checkpoint}",
            subcategory="domain_specialization",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_domain_specialization/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_domain_specialization.py"),
    script:
        "../scripts/plot_domain_specialization.py"
