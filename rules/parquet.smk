"""Records as Parquet, to hand them on: `snakemake routing_parquet`; nothing of the report needs it."""


rule routing_parquet:
    """The study's tokens and records as Parquet, with a data card for each model."""
    input:
        cards=exported_cards,


rule export_tokens:
    """The tokens of a dataset as Parquet: id, document, cluster, position and phase."""
    input:
        tokens="results/inputs/{model}/{dataset}.nc",
    output:
        samples="results/parquet/{model}/{dataset}/samples/part-0.parquet",
    log:
        "results/logs/export_tokens/{model}/{dataset}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=100),
        runtime=growing(30),
    params:
        code=code("export_tokens.py"),
    script:
        "../scripts/export_tokens.py"


rule export_routing:
    """Which experts the tokens of a dataset select, and with which weights, as Parquet: one file per layer."""
    input:
        tokens="results/inputs/{model}/{dataset}.nc",
        records=records_of_dataset,
    output:
        actives=directory("results/parquet/{model}/{dataset}/actives/{checkpoint}"),
    log:
        "results/logs/export_routing/{model}/{checkpoint}/{dataset}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=200),
        runtime=growing(60),
    params:
        code=code("export_routing.py"),
    script:
        "../scripts/export_routing.py"


rule describe_export:
    """The data card of a model's records as Parquet: what columns mean, how large they are, and how they were made."""
    input:
        descriptions=descriptions_of_model,
        tokens=tokens,
        samples=of_datasets("results/parquet/{model}/{dataset}/samples/part-0.parquet"),
        actives=exported_actives,
    output:
        card="results/parquet/{model}/README.md",
    log:
        "results/logs/describe_export/{model}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("describe_export.py", run=True),
        made=how_exported,
    script:
        "../scripts/describe_export.py"
