"""Inputs: model files, dataset rows, and the tokens that a model sees."""


localrules:
    fetch_model,
    fetch_dataset,
    fetch_items,


rule fetch_model:
    """A checkpoint from the Hugging Face hub, at its pinned revision."""
    output:
        folder=directory("results/models/{model}/{checkpoint}"),
    log:
        "results/logs/fetch_model/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    params:
        code=code("fetch_model.py"),
        model=hub_model,
    script:
        "../scripts/fetch_model.py"


rule fetch_dataset:
    """The rows of a dataset from the Hugging Face hub, at its pinned revision."""
    output:
        rows="results/datasets/{dataset}.parquet",
    log:
        "results/logs/fetch_dataset/{dataset}.log",
    conda:
        "../envs/study.yaml"
    params:
        code=code("fetch_dataset.py"),
        dataset=hub_dataset,
    script:
        "../scripts/fetch_dataset.py"


rule fetch_items:
    """Multiple-choice items from the Hugging Face hub, at their pinned revision."""
    output:
        rows=directory("results/multiple_choice/items"),
    log:
        "results/logs/fetch_items.log",
    conda:
        "../envs/study.yaml"
    params:
        code=code("fetch_items.py"),
        repository={key: config["multiple_choice"][key] for key in ("path", "revision")},
    script:
        "../scripts/fetch_items.py"


rule describe_model:
    """What a checkpoint is: revision, checksum of its weights, layers with experts, and routing rule."""
    input:
        folder=model_folder,
    output:
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
    log:
        "results/logs/describe_model/{model}/{checkpoint}.log",
    wildcard_constraints:
        model=MODEL_TO_RUN,
    priority: 1  # the sooner all are there, the more parts a job extracts by the model that it loaded
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("describe_model.py"),
        model=model_settings("id", "path", "layers", "trust_remote_code"),
        predictions=config["extraction"]["predictions"],
    script:
        "../scripts/describe_model.py"


rule tokenize_dataset:
    """The documents of a dataset as the tokens that a model sees."""
    input:
        tokenizer=tokenizer_folder,
        files=dataset_files,
    output:
        tokens="results/inputs/{model}/{dataset}.nc",
    log:
        "results/logs/tokenize_dataset/{model}/{dataset}.log",
    wildcard_constraints:
        model=MODEL_TO_RUN,
    priority: 1
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=60),
        runtime=growing(60),
    params:
        code=code("tokenize_dataset.py"),
        dataset=dataset_settings,
        model=model_settings("window", "tokens_per_dataset", "trust_remote_code"),
    script:
        "../scripts/tokenize_dataset.py"


rule list_vocabulary:
    """Which strings are one token of a model, and how often each occurs in the study: a target by itself."""
    input:
        tokenizer=tokenizer_folder,
        tokens=tokens,
    output:
        table="results/tables/{model}/vocabulary.csv",
    log:
        "results/logs/list_vocabulary/{model}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=60),
        runtime=growing(30),
    params:
        code=code("list_vocabulary.py"),
        model=model_settings("trust_remote_code"),
    script:
        "../scripts/list_vocabulary.py"
