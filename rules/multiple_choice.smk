"""Multiple choice: items of MMLU or of the study's text."""

CHOICE = config["multiple_choice"]
CHOICE_ITEMS = {"text": [], "hub": ["results/multiple_choice/items"], "files": [CHOICE["path"]]}[CHOICE["source"]]

if (CHOICE["source"] == "text") != (CHOICE["path"] == ""):
    remedy = "remove it" if CHOICE["source"] == "text" else "write where the items are"
    sys.exit(f"Error: config: multiple_choice.path: {CHOICE['path']!r} with `source: {CHOICE['source']}`: {remedy}.")
if CHOICE["source"] == "text" and CHOICE["form"] == "letters":
    sys.exit("Error: config: multiple_choice.form: items of text have no letters: write cloze.")
if CHOICE["source"] == "files" and not ON_OBJECT_STORAGE and not os.path.exists(prefixed(CHOICE["path"])):
    sys.exit(f"Error: config: multiple_choice.path: {prefixed(CHOICE['path'])} does not exist: correct the path.")


localrules:
    fetch_items,


rule fetch_items:
    """The multiple-choice items of a repository on the Hugging Face hub, at its pinned revision."""
    output:
        rows=directory("results/multiple_choice/items"),
    log:
        "results/logs/fetch_items.log",
    conda:
        "../envs/study.yaml"
    params:
        code=code("fetch_items.py"),
        repository={key: CHOICE[key] for key in ("path", "revision")},
    script:
        "../scripts/fetch_items.py"


rule measure_multiple_choice:
    """Which experts a right answer needs, beyond as much weight of others."""
    input:
        folder=model_folder,
        tokenizer=tokenizer_folder,
        tokens=lambda wildcards: tokens(wildcards) if CHOICE["source"] == "text" else [],
        rows=CHOICE_ITEMS,
        description="results/inputs/{model}/checkpoints/{checkpoint}.json",
        untrained=untrained("multiple_choice"),
    output:
        metrics="results/metrics/{model}/{checkpoint}/multiple_choice.nc",
        draws="results/draws/{model}/{checkpoint}/multiple_choice.nc",
        table="results/tables/{model}/{checkpoint}/multiple_choice.csv",
        contrasts="results/tables/{model}/{checkpoint}/multiple_choice_contrasts.csv",
    log:
        "results/logs/measure_multiple_choice/{model}/{checkpoint}.log",
    conda:
        "../envs/study.yaml"
    threads: config["extraction"]["threads"]
    resources:
        gpu=gpus,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        code=code("measure_multiple_choice.py"),
        model=model_settings("dtype", "device", "attention", "experts", "gpus", "trust_remote_code"),
        read=model_settings("layers", "window"),
        threads=config["extraction"]["threads"],
        tokens_per_batch=config["extraction"]["tokens_per_batch"],
        settings=settings("multiple_choice"),
        # Of the checkpoints that are not studied only the answers are known: they show what chance is.
        changes=lambda wildcards: study.studied_checkpoint(wildcards.model) == wildcards.checkpoint,
        statistics=statistics("seed", "resamples", "confidence"),
        fewest_clusters=config["statistics"]["fewest_clusters"],
    script:
        "../scripts/measure_multiple_choice.py"
