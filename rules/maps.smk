rule measure_maps:
    """PCA, UMAP and t-SNE of router inputs and expert outputs, and how tokens lie in the spaces that they show."""
    input:
        folder=model_folder,
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
        untrained=untrained("maps"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/maps.nc",
        draws="results/draws/{model}/{checkpoint}/maps.nc",
        table="results/tables/{model}/{checkpoint}/maps.csv",
    log:
        "results/logs/measure_maps/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        code=code("measure_maps.py"),
        model=model_settings("dtype", "device", "experts"),
        tokenizer=model_settings("trust_remote_code"),
        threads=config["extraction"]["threads"],
        settings=settings("maps"),
        statistics=statistics("seed", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_maps.py"
