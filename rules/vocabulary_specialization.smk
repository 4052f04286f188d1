"""Whether the token id decides which expert a token is sent to, per layer and kind of token."""


rule measure_vocabulary_specialization:
    """Whether the token id decides which expert a token is sent to, per layer and kind of token."""
    input:
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
    output:
        metrics="results/metrics/{model}/{checkpoint}/vocabulary_specialization.nc",
        table="results/tables/{model}/{checkpoint}/vocabulary_specialization.csv",
    log:
        "results/logs/measure_vocabulary_specialization/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=130),
        runtime=growing(60, per_million=2),
    params:
        code=code("measure_vocabulary_specialization.py"),
        model=model_settings("trust_remote_code"),
        settings=config["vocabulary_specialization"],
        statistics={key: config["statistics"][key] for key in ("seed", "confidence")},
    script:
        "../scripts/measure_vocabulary_specialization.py"


rule plot_vocabulary_specialization:
    """Figures and findings on whether the token id decides which expert a token is sent to."""
    input:
        metrics="results/metrics/{model}/{checkpoint}/vocabulary_specialization.nc",
        untrained=untrained_metrics("vocabulary_specialization"),
    output:
        figures=report(
            directory("results/figures/{model}/{checkpoint}/vocabulary_specialization"),
            patterns=["{figure}.svg"],
            caption="../report/captions/vocabulary_specialization.rst",
            category="{model}, {checkpoint}",
            subcategory="vocabulary_specialization",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_vocabulary_specialization/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plot_vocabulary_specialization.py"),
    script:
        "../scripts/plot_vocabulary_specialization.py"
