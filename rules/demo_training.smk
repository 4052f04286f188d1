"""How well the embedded model predicts held-out text."""


rule measure_demo_training:
    """How well the embedded model predicts held-out text, per domain and checkpoint."""
    input:
        training="results/demo/training.nc",
    output:
        metrics="results/metrics/{model}/{checkpoint}/demo_training.nc",
        table="results/tables/{model}/{checkpoint}/demo_training.csv",
    log:
        "results/logs/measure_demo_training/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("measure_demo_training.py"),
        statistics=config["statistics"],
    script:
        "../scripts/measure_demo_training.py"


rule plot_demo_training:
    """The figures and findings of that chapter."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/demo_training.nc",
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/demo_training"),
            patterns=["{figure}.svg"],
            caption="../report/captions/demo_training.rst",
            category="{model}, {checkpoint}",
            subcategory="demo_training",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_demo_training/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("plot_demo_training.py"),
    script:
        "../scripts/plot_demo_training.py"
