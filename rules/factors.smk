rule measure_factors:
    """Whether router inputs consist of parts that a second fit finds again, and what these parts go with."""
    input:
        tokens=tokens,
        states="results/states/{model}/{checkpoint}.nc",
        tokenizer=tokenizer_folder,
        untrained=untrained("factors"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/factors.nc",
        draws="results/draws/{model}/{checkpoint}/factors.nc",
        table="results/tables/{model}/{checkpoint}/factors.csv",
        factors="results/tables/{model}/{checkpoint}/found_factors.csv",
    log:
        "results/logs/measure_factors/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(4000, per_million=300),
        runtime=growing(120),
    params:
        code=code("measure_factors.py"),
        tokenizer=model_settings("trust_remote_code"),
        settings={
            key: config["factors"][key]
            for key in ("number", "sparsity", "passes", "seeds", "again", "examples", "seed")
        },
        confidence=config["statistics"]["confidence"],
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_factors.py"
