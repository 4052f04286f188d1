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
        dataset=f"(?!(?:{CONTINUED})[.]nc){DATASET}",
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


rule tokenize_prompts:
    """The documents of a dataset that the studied checkpoint is to continue as the tokens that it sees."""
    input:
        tokenizer=tokenizer_folder,
        files=dataset_files,
    output:
        tokens="results/prompts/{model}/{dataset}.nc",
    log:
        "results/logs/tokenize_prompts/{model}/{dataset}.log",
    wildcard_constraints:
        dataset=CONTINUED,
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


rule generate_continuations:
    """The tokens of a dataset with what the studied checkpoint writes after each document, the same for all checkpoints."""
    input:
        folder=studied_folder,
        description=studied_description,
        tokenizer=tokenizer_folder,
        tokens="results/prompts/{model}/{dataset}.nc",
    output:
        tokens="results/inputs/{model}/{dataset}.nc",
    log:
        "results/logs/generate_continuations/{model}/{dataset}.log",
    wildcard_constraints:
        dataset=CONTINUED,
    priority: 1
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("generate_continuations.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        generate=lambda wildcards: dataset_settings(wildcards)["generate"],
    script:
        "../scripts/generate_continuations.py"


rule split_tokens:
    """The tokens of a dataset that have one role or phase."""
    input:
        tokens=tokens_of_whole,
    output:
        tokens="results/inputs/{model}/{variant}.nc",
    log:
        "results/logs/split_tokens/{model}/{variant}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=60),
        runtime=growing(20),
    params:
        code=code("split_tokens.py"),
        variant=lambda wildcards: study.variants[wildcards.variant]._asdict(),
    script:
        "../scripts/split_tokens.py"


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
