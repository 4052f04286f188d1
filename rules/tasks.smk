"""Tasks: pairs of prompts that differ in what decides the answer."""


rule make_pairs:
    """The pairs of prompts of the study's tasks, as the tokens that a model sees."""
    input:
        tokenizer=tokenizer_folder,
        files=[file for task in study.tasks.values() for file in task["files"]],
    output:
        pairs=expand("results/tasks/{{model}}/{task}.nc", task=study.tasks),
    log:
        "results/logs/make_pairs/{model}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("make_pairs.py"),
        model=model_settings("trust_remote_code"),
        tasks=dict(study.tasks),
    script:
        "../scripts/make_pairs.py"
