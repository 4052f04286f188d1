"""The expert browser: what experts, and sets of up to three of them, receive."""


rule build_browser:
    """The data of the expert browser, and the table of expert sets that are specific to a dataset."""
    input:
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
    output:
        scripts=directory("results/browser/{model}/{checkpoint}"),
        table="results/tables/{model}/{checkpoint}/expert_sets.csv",
    log:
        "results/logs/build_browser/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000, per_million=170),
        runtime=growing(60, per_million=6),
    params:
        code=code("build_browser.py"),
        model=model_settings("trust_remote_code"),
        settings=config["browser"],
        confidence=config["statistics"]["confidence"],
    script:
        "../scripts/build_browser.py"
