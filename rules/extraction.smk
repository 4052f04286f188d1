"""Extraction: one forward pass per model, checkpoint and part of a dataset; then tallies, which all chapters read.

A part is a whole dataset, or one of its shards. A job that loads the model extracts parts of other jobs, too, which take
them from a shelf: `gatebook.run.shelf`.
"""


rule extract_routing:
    """What every router received, decided and returned for every token: one file per layer."""
    input:
        folder=model_folder,
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        tokens=tokens_of_part,
    output:
        records=perhaps_temporary(directory("results/routing/{model}/{checkpoint}/{part}")),
    log:
        "results/logs/extract_routing/{model}/{checkpoint}/{part}.log",
    benchmark:
        "results/benchmarks/extract_routing/{model}/{checkpoint}/{part}.tsv"
    wildcard_constraints:
        model=MODEL_TO_RUN,
        part=EXTRACTED,
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("extract_routing.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        extraction=config["extraction"],
        place=place,
    script:
        "../scripts/extract_routing.py"


rule select_experts:
    """Which experts tokens of all datasets select at a checkpoint of which no records are made, and nothing else."""
    input:
        folder=model_folder,
        tokens=tokens,
    output:
        selections="results/selections/{model}/{checkpoint}.nc",
    log:
        "results/logs/select_experts/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000, per_million=300),
        runtime=growing(240),
    params:
        code=code("select_experts.py"),
        model=model_settings(
            "id", "path", "layers", "dtype", "device", "attention", "experts", "gpus", "trust_remote_code"
        ),
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        tokens={key: config["evolution"][key] for key in ("tokens", "seed")},
        windows=False,
    script:
        "../scripts/select_experts.py"


rule select_alternative:
    """Which experts some tokens of all datasets select if a model computes in another way, and nothing else."""
    input:
        folder=model_folder,
        tokens=tokens,
    output:
        selections="results/alternatives/{model}/{checkpoint}/{alternative}.nc",
    log:
        "results/logs/select_alternative/{model}/{checkpoint}/{alternative}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000, per_million=300),
        runtime=growing(240),
    params:
        code=code("select_experts.py"),
        model=alternative_settings,
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        tokens=chosen_to_agree(),
        windows=True,
    script:
        "../scripts/select_experts.py"


rule split_records:
    """The records of a dataset's tokens that have one role or phase: one file per layer."""
    input:
        tokens="results/inputs/{model}/{variant}.nc",
        records=records_of_whole,
    output:
        records=perhaps_temporary(directory("results/routing/{model}/{checkpoint}/{variant}")),
    log:
        "results/logs/split_records/{model}/{checkpoint}/{variant}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=2000),
        runtime=growing(60),
    params:
        code=code("split_records.py"),
    script:
        "../scripts/split_records.py"


rule tally_routing:
    """Small additive statistics of a part's records: counts, sums and histograms per document."""
    input:
        tokens=tokens_of_part,
        records="results/routing/{model}/{checkpoint}/{part}",
    output:
        tally="results/tallies/{model}/{checkpoint}/{part}.nc",
    log:
        "results/logs/tally_routing/{model}/{checkpoint}/{part}.log",
    wildcard_constraints:
        model=MODEL_WITH_TOKENS,
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    params:
        code=code("tally_routing.py"),
        place=place,
    script:
        "../scripts/tally_routing.py"


rule combine_tallies:
    """The tally of a dataset from those of its shards."""
    input:
        shards=shard_tallies,
    output:
        tally="results/tallies/{model}/{checkpoint}/{dataset}.nc",
    log:
        "results/logs/combine_tallies/{model}/{checkpoint}/{dataset}.log",
    wildcard_constraints:
        model=MODEL_WITH_TOKENS,
        dataset=DATASET_IN_SHARDS,
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=60),
        runtime=growing(60, per_million=0.5),
    params:
        code=code("combine_tallies.py"),
    script:
        "../scripts/combine_tallies.py"
