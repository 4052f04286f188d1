rule measure_expert_ablation:
    """How much one expert matters, where, whether it is the expert or its load, and what tells it."""
    input:
        scan="results/ablation/{model}/{checkpoint}.nc",
        untrained=untrained("expert_ablation"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/expert_ablation.nc",
        draws="results/draws/{model}/{checkpoint}/expert_ablation.nc",
        table="results/tables/{model}/{checkpoint}/expert_ablation.csv",
    log:
        "results/logs/measure_expert_ablation/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code("measure_expert_ablation.py"),
        settings={
            key: config["expert_ablation"][key] for key in ("splits", "permutations", "false_discovery_rate", "seed")
        },
        confidence=config["statistics"]["confidence"],
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_expert_ablation.py"
