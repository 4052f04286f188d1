"""How the routing of two runs differs, by relative depth."""


rule measure_compare:
    """How the routing of a run (B) differs from that of the first run of `compare` (A), by relative depth."""
    input:
        first=first_run("results/tallies/{model}/{checkpoint}/{dataset}.nc"),
        first_model=first_run("results/inputs/{model}/checkpoints/{checkpoint}.json"),
        second=tallies,
        second_model="results/inputs/{model}/checkpoints/{checkpoint}.json",
    output:
        metrics="results/metrics/{model}/{checkpoint}/compare.nc",
        table="results/tables/{model}/{checkpoint}/compare.csv",
    log:
        "results/logs/measure_compare/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=100),
        runtime=growing(60, per_million=1),
    params:
        code=code("measure_compare.py"),
        statistics=config["statistics"],
    script:
        "../scripts/measure_compare.py"


rule plot_compare:
    """Figures and findings on how the routing of two runs differs."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/compare.nc",
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/compare"),
            patterns=["{figure}.svg"],
            caption="../report/captions/compare.rst",
            category="{model}, {checkpoint}",
            subcategory="compare",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_compare/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_compare.py"),
    script:
        "../scripts/plot_compare.py"
