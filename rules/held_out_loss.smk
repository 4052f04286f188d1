"""How well the embedded model predicts held-out text."""


rule measure_held_out_loss:
    """How well the embedded model predicts held-out text, per domain and checkpoint."""
    input:
        training="results/demo/training.nc",
    output:
        metrics="results/metrics/{model}/{checkpoint}/held_out_loss.nc",
        table="results/tables/{model}/{checkpoint}/held_out_loss.csv",
    log:
        "results/logs/measure_held_out_loss/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("measure_held_out_loss.py"),
        statistics=config["statistics"],
    script:
        "../scripts/measure_held_out_loss.py"


rule plot_held_out_loss:
    """Figures and findings on how well the embedded model predicts held-out text."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/held_out_loss.nc",
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/held_out_loss"),
            patterns=["{figure}.svg"],
            caption="../report/captions/held_out_loss.rst",
            category="{model}, {checkpoint}",
            subcategory="held_out_loss",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_held_out_loss/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_held_out_loss.py"),
    script:
        "../scripts/plot_held_out_loss.py"
