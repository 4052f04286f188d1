rule measure_agreement:
    """Of how many tokens runs select the same experts as the first run of `agreement`, and which findings survive."""
    input:
        tokens=of_agreeing("results/inputs/{model}/{dataset}.nc", over="dataset"),
        records=of_agreeing("results/routing/{model}/{checkpoint}/{part}", over="part"),
        alternatives=agreeing_alternatives(),
    output:
        metrics="results/metrics/runs/agreement.nc",
        table="results/tables/runs/agreement.csv",
    log:
        "results/logs/measure_agreement.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=100),
        runtime=growing(60, per_million=1),
    params:
        code=code("measure_agreement.py"),
        runs=agreeing().names,
        untrained=agreeing().untrained,
        unordered=agreeing_unordered(),
        chosen=chosen_to_agree(),
        answers=answered_again(),
        thresholds={name: config[name]["thresholds"] for name in ANSWERED},
        confidence=config["statistics"]["confidence"],
        false_discovery_rate=config["agreement"]["thresholds"]["false_discovery_rate"],
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_agreement.py"
