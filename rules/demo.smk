"""The embedded demo: a small OLMoE trained on text of installed packages. Nothing is downloaded."""

DOMAINS = config["demo"]["corpora"]["domains"]
STEPS = config["demo"]["training"]["checkpoints"]


rule harvest_corpora:
    """Text of clearly different domains from the installed packages, split into train and held-out documents."""
    output:
        train=expand("results/demo/corpora/train/{domain}.jsonl", domain=DOMAINS),
        held_out=expand("results/demo/corpora/held_out/{domain}.jsonl", domain=DOMAINS),
    log:
        "results/logs/harvest_corpora.log",
    conda:
        "../envs/study.yaml"
    threads: 2
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("harvest_corpora.py"),
        corpora=config["demo"]["corpora"],
    script:
        "../scripts/harvest_corpora.py"


rule train_tokenizer:
    """A byte-level BPE tokenizer trained on the demo's corpora."""
    input:
        corpora=expand("results/demo/corpora/train/{domain}.jsonl", domain=DOMAINS),
    output:
        tokenizer=directory("results/demo/tokenizer"),
    log:
        "results/logs/train_tokenizer.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("train_tokenizer.py"),
        tokenizer=config["demo"]["tokenizer"],
    script:
        "../scripts/train_tokenizer.py"


rule train_model:
    """A small OLMoE trained on the demo's corpora, with checkpoints from step 0 on."""
    input:
        tokenizer="results/demo/tokenizer",
        train=expand("results/demo/corpora/train/{domain}.jsonl", domain=DOMAINS),
        held_out=expand("results/demo/corpora/held_out/{domain}.jsonl", domain=DOMAINS),
    output:
        checkpoints=directory(expand("results/demo/checkpoints/{model}/step{step}", step=STEPS, allow_missing=True)),
        training="results/demo/training/{model}.nc",
    log:
        "results/logs/train_model/{model}.log",
    conda:
        "../envs/study.yaml"
    threads: config["demo"]["training"]["threads"]
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code("train_model.py"),
        settings=model_settings("model", "training"),
    script:
        "../scripts/train_model.py"
