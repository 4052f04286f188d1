"""Provenance: what ran, on what, when and with which result; and whether the results are still what was written."""


localrules:
    record_provenance,
    verify,


rule record_provenance:
    """Models, data, code, config, versions, seeds, hardware and run times of the study, and an RO-Crate of the results."""
    input:
        report="results/report",
        metrics=every_metrics(),
        models=every_model("results/inputs/{model}/checkpoints/{checkpoint}.json"),
        datasets=described_datasets(),
    output:
        provenance="results/provenance.json",
        crate="results/ro-crate-metadata.json",
    log:
        "results/logs/record_provenance.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("record_provenance.py", run=True),
        config=config,
        commit=commit(),
        results=results_folder,
        temporary=deleted_records(),
    script:
        "../scripts/record_provenance.py"


rule verify:
    """Compare every file of the results with the checksum recorded when it was written, and name each that differs."""
    log:
        "results/logs/verify.log",
    conda:
        "../envs/study.yaml"
    params:
        results=results_folder,
        temporary=[] if config["storage"]["keep_records"] else ["routing"],
    script:
        "../scripts/verify_results.py"


if workflow.is_main_process and not ON_OBJECT_STORAGE:  # where receipts stay in the folders of the jobs
    metadata.restore(workflow, (receipt for _, receipt in receipts.read(Path(RESULTS, "receipts")) if receipt))
