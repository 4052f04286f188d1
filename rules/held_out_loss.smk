rule measure_held_out_loss:
    """How well the embedded model predicts held-out text, per domain and checkpoint."""
    input:
        training="results/demo/training/{model}.nc",
    output:
        metrics="results/metrics/{model}/held_out_loss.nc",
        table="results/tables/{model}/held_out_loss.csv",
    log:
        "results/logs/measure_held_out_loss/{model}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("measure_held_out_loss.py"),
        checkpoint=lambda wildcards: study.studied_checkpoint(wildcards.model),
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_held_out_loss.py"
