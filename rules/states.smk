"""States: a larger sample of router inputs than records hold, which the chapter factors reads."""


rule sample_states:
    """What routers receive for tokens of as many clusters as can be, and the experts that these tokens select."""
    input:
        folder=model_folder,
        tokens=tokens,
    output:
        states="results/states/{model}/{checkpoint}.nc",
    log:
        "results/logs/sample_states/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000, per_million=300),
        runtime=growing(60),
    params:
        code=code("sample_states.py"),
        model=model_settings(
            "id", "path", "layers", "dtype", "device", "attention", "experts", "gpus", "trust_remote_code"
        ),
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        layers=config["factors"]["layers"],
        tokens={key: config["factors"][key] for key in ("tokens", "per_window", "seed")},
    script:
        "../scripts/sample_states.py"
