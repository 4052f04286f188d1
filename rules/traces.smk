"""Routing traces: what a study reads in place of a model that it runs; they become the same tokens and records."""


localrules:
    fetch_tokenizer,


rule fetch_tokenizer:
    """The tokenizer of a model whose routing was traced, from the Hugging Face hub, at its pinned revision."""
    output:
        folder=directory("results/tokenizers/{model}"),
    log:
        "results/logs/fetch_tokenizer/{model}.log",
    wildcard_constraints:
        model=MODEL_OF_TRACES,
    conda:
        "../envs/study.yaml"
    params:
        code=code("fetch_tokenizer.py"),
        model=model_settings("tokenizer", "trust_remote_code"),
    script:
        "../scripts/fetch_tokenizer.py"


rule describe_traces:
    """What the model is whose routing was traced: its layers and experts, by its config.json or the study's config."""
    input:
        config=traced_config,
    output:
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
    log:
        "results/logs/describe_traces/{model}/{checkpoint}.log",
    wildcard_constraints:
        model=MODEL_OF_TRACES,
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("describe_traces.py"),
        model=model_settings(
            "id",
            "revision",
            "path",
            "layers",
            "trace_layers",
            "experts_per_layer",
            "experts_per_token",
            "family",
            "router",
            "trust_remote_code",
        ),
    script:
        "../scripts/describe_traces.py"


rule read_traces:
    """The tokens of a dataset of traces that are sound at all checkpoints; what is wrong with others is counted."""
    input:
        description=studied_description,
        traces=traces_of_dataset,
        tokenizer=traced_tokenizer,
    output:
        tokens="results/inputs/{model}/{dataset}.nc",
    log:
        "results/logs/read_traces/{model}/{dataset}.log",
    wildcard_constraints:
        model=MODEL_OF_TRACES,
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=60),
        runtime=growing(60),
    params:
        code=code("read_traces.py"),
        order=traced_order,
        dataset=dataset_settings,
        model=model_settings("checkpoints", "holds", "tokens_per_dataset", "trust_remote_code"),
    script:
        "../scripts/read_traces.py"


rule import_traces:
    """What tokens select according to traces, as records: one file per layer."""
    input:
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        tokens=tokens_of_part,
        traces=traces_of_part,
    output:
        records=perhaps_temporary(directory("results/routing/{model}/{checkpoint}/{part}")),
    log:
        "results/logs/import_traces/{model}/{checkpoint}/{part}.log",
    wildcard_constraints:
        model=MODEL_OF_TRACES,
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        mem_mb=growing(2000, per_million=30),
        runtime=growing(120),
    params:
        code=code("import_traces.py"),
        dataset=dataset_of_part,
        model=model_settings("holds"),
        place=place,
    script:
        "../scripts/import_traces.py"
