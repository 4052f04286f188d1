"""How alike the experts of a layer are."""


rule measure_similarity:
    """How alike the experts of a layer are: their outputs for the same tokens, their weights, their router rows."""
    input:
        folder=model_folder,
        tokens=tokens,
        records=records,
        coactivation="results/metrics/{model}/{checkpoint}/coactivation.nc",
        token_overlap="results/metrics/{model}/{checkpoint}/token_overlap.nc",
    output:
        metrics="results/metrics/{model}/{checkpoint}/similarity.nc",
        table="results/tables/{model}/{checkpoint}/similarity.csv",
    log:
        "results/logs/measure_similarity/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(480),
    params:
        code=code("measure_similarity.py"),
        model=model_settings("dtype", "device", "experts"),
        threads=config["extraction"]["threads"],
        similarity=config["similarity"],
        statistics={key: config["statistics"][key] for key in ("seed", "confidence")},
    script:
        "../scripts/measure_similarity.py"


rule plot_similarity:
    """Figures and findings on how alike the experts of a layer are."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/similarity.nc",
        untrained=untrained_metrics("similarity"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/similarity"),
            patterns=["{figure}.svg"],
            caption="../report/captions/similarity.rst",
            category="{model}, {checkpoint}",
            subcategory="similarity",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_similarity/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_similarity.py"),
    script:
        "../scripts/plot_similarity.py"
