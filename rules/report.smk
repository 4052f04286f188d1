"""The report: one folder of pages that opens by double-click."""


localrules:
    estimate_report,


rule estimate_report:
    """How large the report will be: asked as soon as the sizes of the models are known, before what it takes to make."""
    input:
        models=studied("results/inputs/{model}/checkpoints/{checkpoint}.json"),
    output:
        sizes="results/inputs/report_size.json",
    log:
        "results/logs/estimate_report.log",
    priority: 100
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    params:
        code=code("estimate_report.py"),
        datasets=len(study.told_apart),
        tokens={model: study.most_tokens(model) for model in study.models},
        chapters=list(CHAPTERS),
        browser=config["browser"],
        limits=size_limits(),
    script:
        "../scripts/estimate_report.py"


rule build_report:
    """The HTML report, results/report/index.html, with every figure and table of the study."""
    input:
        figures=shown("results/figures/{of}/{chapter}"),
        metrics=shown("results/metrics/{of}/{chapter}.nc"),
        tables=shown("results/tables/{of}/{chapter}.csv"),
        expert_sets=expert_sets(),
        pages=model_pages(),
        models=studied("results/inputs/{model}/checkpoints/{checkpoint}.json"),
        datasets=described_datasets(),
        estimate=[] if study.of_counts else "results/inputs/report_size.json",
    output:
        folder=report(
            directory("results/report"),
            htmlindex="index.html",
            caption="../report/captions/report.rst",
            category="The report",
        ),
    log:
        "results/logs/build_report.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("build_report.py", run=True),
        sections=sections(),
        pages=sha256(*REPORT_FILES),
        references=REFERENCES,
        config=config,
        commit=commit(),
        citation=yaml.safe_load(Path(workflow.source_path("../CITATION.cff")).read_text(encoding="utf-8")),
        graph=lambda wildcards, output: rule_graph(output.folder),
        left_out={model: left_out(model) for model in study.models},
        missing={model: missing(model) for model in study.models},
    script:
        "../scripts/build_report.py"
