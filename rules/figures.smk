rule plot_chapter:
    """The figures and findings of a chapter."""
    input:
        metrics="results/metrics/{of}/{chapter}.nc",
    output:
        figures=report(
            directory("results/figures/{of}/{chapter}"),
            patterns=["{figure}.svg"],
            caption="../report/captions/chapter.rst",
            category="{of}",
            subcategory="{chapter}",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot_chapter/{of}/{chapter}.log",
    conda:
        "../envs/study.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=lambda wildcards: content_of("plot_chapter.py", f"chapters/{wildcards.chapter}/page.py"),
        title=lambda wildcards: CHAPTERS[wildcards.chapter].title,
        thresholds=thresholds,
    script:
        "../scripts/plot_chapter.py"
