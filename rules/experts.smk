"""Profiles of the experts, for reading one by one."""


rule profile_experts:
    """The profile of every expert as JSON: its load, domains, tokens, partners, likeness and contexts."""
    input:
        tokens=tokens,
        records=records,
        tokenizer=tokenizer_folder,
        metrics=profiled_chapters,
    output:
        folder=directory("results/experts/{model}/{checkpoint}"),
    log:
        "results/logs/profile_experts/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(1000, per_million=150),
        runtime=growing(60, per_million=5),
    params:
        code=code("profile_experts.py"),
        schema=sha256(FETCHED["report/schemas/expert_profile.schema.json"]),
        model=model_settings("trust_remote_code"),
        settings=config["expert_profiles"],
        statistics=statistics("confidence"),
    script:
        "../scripts/profile_experts.py"
