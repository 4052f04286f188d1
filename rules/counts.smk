"""Published counts: what a study reads in place of a model and its tokens."""


rule describe_counts:
    """What published counts are: the model that they are about, its layers and experts."""
    input:
        files=counts_files,
    output:
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
    log:
        "results/logs/describe_counts/{model}/{checkpoint}.log",
    wildcard_constraints:
        model=MODEL_OF_COUNTS,
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("describe_counts.py"),
        model=model_settings("id", "revision", "experts_per_layer", "experts_per_token"),
    script:
        "../scripts/describe_counts.py"


rule tally_counts:
    """The domains of published counts, as the chapters read them."""
    input:
        files=counts_files,
    output:
        tallies=expand("results/tallies/{{model}}/{{checkpoint}}/{dataset}.nc", dataset=study.datasets),
    log:
        "results/logs/tally_counts/{model}/{checkpoint}.log",
    wildcard_constraints:
        model=MODEL_OF_COUNTS,
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("tally_counts.py"),
        model=model_settings("id", "revision", "files", "experts_per_layer", "experts_per_token", "design_effect"),
        domains={name: dataset.get("domain") for name, dataset in study.datasets.items()},
    script:
        "../scripts/tally_counts.py"
