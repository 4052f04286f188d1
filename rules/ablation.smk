"""Ablation: the model run with experts removed, which the chapter expert_ablation reads."""


rule scan_ablation:
    """What removing each expert does to the loss of a few documents of each dataset, and of others where it matters."""
    input:
        folder=model_folder,
        tokens=tokens,
    output:
        scan="results/ablation/{model}/{checkpoint}.nc",
    log:
        "results/logs/scan_ablation/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("scan_ablation.py"),
        model=model_settings(
            "id", "path", "layers", "dtype", "device", "attention", "experts", "gpus", "trust_remote_code"
        ),
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=removing,
    script:
        "../scripts/scan_ablation.py"
