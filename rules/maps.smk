"""Maps of router inputs and expert outputs."""


rule measure_maps:
    """PCA, UMAP and t-SNE of router inputs and expert outputs, and how tokens lie in the spaces that they show."""
    input:
        folder=model_folder,
        tokens=tokens,
        records=records,
    output:
        metrics="results/metrics/{model}/{checkpoint}/maps.nc",
        table="results/tables/{model}/{checkpoint}/maps.csv",
    log:
        "results/logs/measure_maps/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        gpu=gpus,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        code=code("measure_maps.py"),
        model=model_settings("dtype", "device", "experts"),
        maps=config["maps"],
        statistics={key: config["statistics"][key] for key in ("seed", "confidence")},
    script:
        "../scripts/measure_maps.py"


rule plot_maps:
    """Figures of the maps, and findings on how tokens lie in the spaces that they show."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/maps.nc",
        untrained=untrained_metrics("maps"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/maps"),
            patterns=["{figure}.svg"],
            caption="../report/captions/maps.rst",
            category="{model}, {checkpoint}",
            subcategory="maps",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_maps/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_maps.py"),
        thresholds={"plane_variance": config["report"]["thresholds"]["plane_variance"]},
    script:
        "../scripts/plot_maps.py"
