"""Shared by all rules: the library, the checked config, the study, and helpers."""

import hashlib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from dataclasses import asdict
from fnmatch import fnmatch
from functools import cache, reduce
from importlib.util import find_spec

import yaml
from snakemake.iocontainers import Wildcards

HERE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))
if HERE.is_dir():  # else this workflow is imported over the network, where no folder can be listed
    FILES = [
        path.relative_to(HERE.parent).as_posix()
        for folder in ("scripts/gatebook", "report", "config/reference")
        for path in sorted((HERE.parent / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name[0] != "."
    ]
else:
    FILES = Path(workflow.source_path("files.txt")).read_text(encoding="utf-8").split()
FETCHED = {file: Path(workflow.source_path(f"../{file}")) for file in FILES}


def kept(files):
    """A copy of files, by their paths, in a folder that is named by their content and stays.

    An edit reaches no job that was planned before it, and what Python and numba compile serves the next runs.
    """
    content = hashlib.sha256()
    for file, path in files.items():
        content.update(f"{file} {path.stat().st_size} ".encode() + path.read_bytes())
    copy = Path(".snakemake", "library", content.hexdigest()[:16]).absolute()
    if not copy.exists():
        partial = copy.with_name(uuid.uuid4().hex)
        for file, path in files.items():
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, partial / file)
        try:
            partial.rename(copy)
        except OSError:  # another job was faster
            shutil.rmtree(partial)
    return copy


def yaml_of(path):
    """What a YAML file of the project holds; the parser in C, where PyYAML has it, takes a tenth of the time."""
    return yaml.load(Path(path).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


library = kept(FETCHED) / "scripts" / "gatebook"
REPORT_FILES = [path for file, path in FETCHED.items() if file.startswith("report/")]
REFERENCES = [yaml_of(path) for file, path in FETCHED.items() if file.startswith("config/reference/")]
FOLDERS = [Path(file).parts[3] for file in FILES if fnmatch(file, "scripts/gatebook/chapters/*/measure.py")]
sys.path.insert(0, str(library.parent))
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [str(library.parent), os.environ.get("PYTHONPATH")])))
if shlex.quote(sys.executable) != sys.executable:  # Snakemake writes it into command lines without quotes
    os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    sys.executable = Path(sys.executable).name

from gatebook import chapters as declarations
from gatebook.atlas import profiles_page
from gatebook.chapters.agreement import asked as agreement
from gatebook.chapters.interventions.asked import of_model
from gatebook.chapters.steering.asked import of_study
from gatebook.files import atomic, parts
from gatebook.files.checksums import sha256
from gatebook.inputs import catalogues
from gatebook.inputs.sources import probes as probe_sources
from gatebook.problem import Problem
from gatebook.run import configuration, failures, metadata, receipts
from gatebook.run.code import code_hash

if workflow.is_main_process:
    failures.tell_at_the_end()

KNOWN_CHAPTERS = {name: declarations.declared(name) for name in FOLDERS}  # selected by the config or not


def overlays():
    """What lies over the default study, the last one on top; an importing workflow hands it over by `module:`.

    Snakemake has merged them in `config` key by key, where an entry of another source would inherit keys.
    """
    if workflow.modifier.skip_configfile:
        return [config]
    files = [workflow.configfiles[-1], *workflow.overwrite_configfiles]
    return [*map(configuration.read, files), workflow.config_settings.config]


def checked():
    """The config, complete and right, the study and the probes that it selects; or one sentence on what is wrong."""
    try:
        schema = yaml_of(workflow.source_path("../config/schemas/config.schema.yaml"))
        default = yaml_of(workflow.source_path("../config/config.yaml"))
        schema = catalogues.with_sources(configuration.with_chapters(schema, KNOWN_CHAPTERS))
        complete = configuration.check(reduce(configuration.laid_over, overlays(), default), schema)
        return complete, catalogues.resolve(complete, KNOWN_CHAPTERS), probe_sources.selected(complete)
    except Problem as problem:
        sys.exit(f"Error: {problem}")


config, study, PROBES = checked()
CHAPTERS = {name: KNOWN_CHAPTERS[name] for name in config["chapters"]}


ON_OBJECT_STORAGE = workflow.storage_settings.default_storage_provider is not None
prefixed = workflow.modifier.path_modifier.replace_prefix  # an importing workflow may put all under a `prefix:`
RESULTS = prefixed("results")


def check_paths():
    """Say at once what is missing or cannot be written, before any job starts; object storage says so itself."""
    if ON_OBJECT_STORAGE:
        return
    for key, path in (study.local_paths() | probe_sources.files(PROBES)).items():
        if not os.path.exists(prefixed(path)):  # unlike Path.exists, false of a name that is too long
            sys.exit(f"Error: config: {key}: {prefixed(path)} does not exist: correct the path.")
    results = Path(RESULTS).absolute()
    folder = results if results.exists() else results.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        sys.exit(f"Error: {results} cannot be written: make it a folder that you may write to.")


def check_tracking():
    """Say at once that a package for logging is missing, before any job starts."""
    if "wandb" in config["tracking"]:
        found = find_spec("wandb")
        if found is None or found.origin is None:  # a folder of that name is no package
            sys.exit(
                "Error: config: tracking.wandb: the package wandb is not installed: run `python -m pip install wandb` in "
                "this environment, or remove tracking."
            )


check_paths()
check_tracking()

MODEL, NOTHING = "[A-Za-z0-9_-]+", "(?!)"
MODEL_OF_COUNTS, MODEL_WITH_TOKENS = (MODEL, NOTHING) if study.of_counts else (NOTHING, MODEL)
MODEL_OF_TRACES = MODEL if study.of_traces else NOTHING
MODEL_TO_RUN = NOTHING if study.of_traces else MODEL_WITH_TOKENS
DATASET = "[A-Za-z0-9_-]+([.]question_only)?"
CONTINUED = "|".join(re.escape(name) for name, entry in study.datasets.items() if "generate" in entry) or NOTHING
VARIANT = "|".join(map(re.escape, study.variants)) or NOTHING
PARTS = [part for dataset in study.datasets for part in study.parts(dataset)]
EXTRACTED = "|".join(map(re.escape, PARTS))
DATASET_IN_SHARDS = "|".join(re.escape(dataset) for dataset, shards in study.shards.items() if shards > 1) or NOTHING


def code(script, run=False):
    """A params function: the `content_of` a rule's script, which is read only if one of its jobs is planned."""
    return lambda wildcards: content_of(script, run=run)


@cache
def content_of(script, *also, run=False):
    """Content hash of a script and of the library modules that it uses, so that editing them runs its jobs again.

    `also` are modules that it imports by a name made up at run time. How a run is recorded changes no result, so the
    modules in run/ count only for the scripts that show it (`run`). The hash is kept beside the copy of the library.
    """
    path = Path(workflow.source_path(f"../scripts/{script}"))
    asked = hashlib.sha256(f"{also} {run} ".encode() + path.read_bytes()).hexdigest()[:16]
    known = library.parent.parent / "hashes" / asked
    if not known.exists():
        with atomic.atomic_file(known) as partial:
            partial.write_text(code_hash(path, library, also, ignored=() if run else ("run",)), encoding="ascii")
    return known.read_text(encoding="ascii")


def settings(chapter):
    """A chapter's section in the config, without its thresholds, which its measures do not read."""
    return {key: value for key, value in config[chapter].items() if key != "thresholds"}


def statistics(*keys):
    """The settings `keys` of the section `statistics` of the config."""
    return {key: config["statistics"][key] for key in keys}


def thresholds(wildcards):
    """The thresholds of a chapter's findings."""
    declared = CHAPTERS[wildcards.chapter].thresholds.model_fields
    return config[wildcards.chapter]["thresholds"] if declared else {}


def model_settings(*keys):
    """A params function: the settings `keys` of a model, and no others, so that no other change runs the job again."""
    return lambda wildcards: {key: value for key, value in study.models[wildcards.model].items() if key in keys}


def dataset_settings(wildcards):
    """The settings of a dataset that decide what its tokens are."""
    return study.datasets[wildcards.dataset]


def hub_model(wildcards):
    """Where on the hub a checkpoint is: the repository and its revision, which is the checkpoint's name."""
    model = study.models[wildcards.model]
    if model["source"] != "hub":
        raise Problem(f"config: models.{wildcards.model} is not a hub model: it has no checkpoint to fetch.")
    return catalogues.MODELS["hub"].fetched(model) | {"revision": wildcards.checkpoint}


def hub_dataset(wildcards):
    """Which rows on the hub a dataset is made from, whatever its template."""
    return study.fetched(wildcards.dataset)


def model_folder(wildcards):
    """The folder of a checkpoint, in the hub's layout."""
    return study.folder(wildcards.model, wildcards.checkpoint)


def tokenizer_folder(wildcards):
    """The folder that holds a model's tokenizer."""
    return study.tokenizer(wildcards.model)


def dataset_files(wildcards):
    """The files that hold a dataset's rows."""
    return study.dataset_files(wildcards.dataset)


def counts_files(wildcards):
    """The files that hold the published counts of a model."""
    return study.models[wildcards.model]["files"]


def traced_config(wildcards):
    """The config.json of a model whose routing was traced, if the study's config names its folder."""
    model = study.models[wildcards.model]
    return [f"{model['path']}/config.json"] if "path" in model else []


def traced_tokenizer(wildcards):
    """The folder with the tokenizer of a model whose routing was traced, if it has one."""
    return study.tokenizer(wildcards.model) if "tokenizer" in study.models[wildcards.model] else []


def traced_paths(wildcards):
    """Where the traces of a dataset are, by checkpoint."""
    checkpoints = study.models[wildcards.model]["checkpoints"]
    return {each: study.traces(wildcards.model, wildcards.dataset, each) for each in checkpoints}


def traces_of_dataset(wildcards):
    """The traces of a dataset at all checkpoints, each file or folder once."""
    return list(dict.fromkeys(path for paths in traced_paths(wildcards).values() for path in paths))


def traced_order(wildcards):
    """Which of the traces of a dataset are those of each checkpoint, by their places among all of them."""
    every = traces_of_dataset(wildcards)
    return {each: [every.index(path) for path in paths] for each, paths in traced_paths(wildcards).items()}


def dataset_of_part(wildcards):
    """The settings of the dataset that a part is of."""
    return study.datasets[parts.dataset_of(wildcards.part)]


def traces_of_part(wildcards):
    """The traces of the dataset that a part is of, at a checkpoint."""
    return study.traces(wildcards.model, parts.dataset_of(wildcards.part), wildcards.checkpoint)


def of_datasets(pattern):
    """An input function: `pattern` filled in for a checkpoint and every dataset of the study."""
    return lambda wildcards: [pattern.format(dataset=dataset, **wildcards) for dataset in study.datasets]


tallies = of_datasets("results/tallies/{model}/{checkpoint}/{dataset}.nc")
tokens = of_datasets("results/inputs/{model}/{dataset}.nc")


def task_pairs(wildcards):
    """The pairs of prompts of every task of the study."""
    return [f"results/tasks/{wildcards.model}/{task}.nc" for task in study.tasks]


def recorded(wildcards, names):
    """The records of parts of datasets, at a checkpoint, in order."""
    return ["results/routing/{model}/{checkpoint}/".format(**wildcards) + name for name in names]


def records(wildcards):
    """The records of every part of the study's datasets, in order."""
    return recorded(wildcards, PARTS)


def records_of_dataset(wildcards):
    """The records of every part of a dataset, in order."""
    return recorded(wildcards, study.parts(wildcards.dataset))


def exported_cards(wildcards):
    """The data card of every model whose records are exported."""
    if study.of_counts:
        raise Problem("config: study: published counts have no records: routing_parquet has nothing to export.")
    return [f"results/parquet/{model}/README.md" for model in study.models]


def exported_actives(wildcards):
    """What is exported of the records of a model, at all of its checkpoints."""
    checkpoints = study.models[wildcards.model]["checkpoints"]
    folder = f"results/parquet/{wildcards.model}"
    return [f"{folder}/{dataset}/actives/{each}" for dataset in study.datasets for each in checkpoints]


def descriptions_of_model(wildcards):
    """What is known of a model's checkpoints of which records are made, in training order."""
    folder = f"results/inputs/{wildcards.model}/checkpoints"
    return [f"{folder}/{checkpoint}.json" for checkpoint in study.models[wildcards.model]["checkpoints"]]


def how_exported(wildcards):
    """How the records of a model were made, in words, for their data card."""
    model = study.models[wildcards.model]
    chosen = {key: model[key] for key in ("dtype", "device", "window", "attention", "experts", "seed") if key in model}
    if model["source"] == "demo":
        chosen = {"seed": config["demo"]["training"]["seed"]} | chosen
    return {key: str(value) for key, value in chosen.items()} | {"records": config["extraction"]["records"]}


def by_variant(pattern):
    """An input function: `pattern` filled in for every dataset of the study, or else for each of its variants."""
    return lambda wildcards: [pattern.format(dataset=dataset, **wildcards) for dataset in study.told_apart]


tallies_by_variant = by_variant("results/tallies/{model}/{checkpoint}/{dataset}.nc")
tokens_by_variant = by_variant("results/inputs/{model}/{dataset}.nc")


def records_by_variant(wildcards):
    """The records of every part of the study's datasets, or else of each of its variants, in order."""
    apart = ([name] if name in study.variants else study.parts(name) for name in study.told_apart)
    return recorded(wildcards, [part for names in apart for part in names])


def tokens_of_whole(wildcards):
    """The tokens of the dataset that a variant is of."""
    return f"results/inputs/{wildcards.model}/{study.variants[wildcards.variant].dataset}.nc"


def records_of_whole(wildcards):
    """The records of every part of the dataset that a variant is of, in order."""
    return recorded(wildcards, study.parts(study.variants[wildcards.variant].dataset))


def training_records(wildcards):
    """The records of those of a model's training checkpoints of which some are made, one checkpoint after another."""
    checkpoints = study.models[wildcards.model]["checkpoints"]
    known = [each for each in study.models[wildcards.model]["training_checkpoints"] if each in checkpoints]
    folders = [f"results/routing/{wildcards.model}/{checkpoint}/" for checkpoint in known]
    return [f"{folder}{part}" for folder in folders for dataset in study.datasets for part in study.parts(dataset)]


def training_selections(wildcards):
    """The selections of a model's other training checkpoints."""
    model = study.models[wildcards.model]
    others = [each for each in model["training_checkpoints"] if each not in model["checkpoints"]]
    return [f"results/selections/{wildcards.model}/{checkpoint}.nc" for checkpoint in others]


def studied_folder(wildcards):
    """The folder of a model's studied checkpoint, in the hub's layout."""
    return study.folder(wildcards.model, study.studied_checkpoint(wildcards.model))


def studied_description(wildcards):
    """What is known of a model's studied checkpoint."""
    return f"results/inputs/{wildcards.model}/checkpoints/{study.studied_checkpoint(wildcards.model)}.json"


def several_checkpoints(wildcards):
    """A model's training checkpoints, if there are several."""
    known = study.models[wildcards.model]["training_checkpoints"]
    return known if len(known) > 1 else []


def training_folders(wildcards):
    """The folders of a model's training checkpoints, if there are several."""
    return [study.folder(wildcards.model, checkpoint) for checkpoint in several_checkpoints(wildcards)]


def tokens_of_part(wildcards):
    """The tokens of the dataset that a part is of."""
    return f"results/inputs/{wildcards.model}/{parts.dataset_of(wildcards.part)}.nc"


def place(wildcards):
    """Which part of its dataset a part is."""
    return parts.place_of(wildcards.part)


def shard_tallies(wildcards):
    """The tallies of a dataset's shards, in order."""
    folder = "results/tallies/{model}/{checkpoint}/".format(**wildcards)
    return [f"{folder}{part}.nc" for part in study.parts(wildcards.dataset)]


def untrained(chapter):
    """An input function: the metrics and draws of the untrained checkpoint that a chapter is compared with, if any."""

    def files(wildcards):
        name = study.models[wildcards.model].get("untrained")
        if name in (None, wildcards.checkpoint):
            return []
        return [f"results/{kind}/{wildcards.model}/{name}/{chapter}.nc" for kind in ("metrics", "draws")]

    return files


def beside(chapter):
    """An input function: of the studied checkpoint, the metrics of the chapters beside one, if they are in the report."""

    def files(wildcards):
        names = [name for name in chapters(wildcards.model) if name in CHAPTERS[chapter].beside]
        studied = study.models[wildcards.model]["checkpoints"][-1]
        return [f"results/metrics/{wildcards.model}/{studied}/{name}.nc" for name in names]

    return files


def profiled_chapters(wildcards):
    """The metrics of the chapters that say something about each expert."""
    names = [name for name in chapters(wildcards.model) if CHAPTERS[name].expert_page]
    return [f"results/metrics/{wildcards.model}/{wildcards.checkpoint}/{name}.nc" for name in names]


def results_folder(wildcards):
    """The folder of the results, for what reads all of it; on object storage there is none."""
    if ON_OBJECT_STORAGE:
        raise Problem("the results are on object storage: provenance and verify need them in a folder.")
    return RESULTS


def gpus(wildcards):
    """GPUs that an extraction asks for: none when its model is to run on the CPU."""
    model = study.models[wildcards.model]
    return 0 if model["device"] == "cpu" else model["gpus"]


def of_runs(pattern):
    """`pattern` filled in for every run of `compare` and, if it has one, every dataset."""
    return list(
        dict.fromkeys(pattern.format(**run, dataset=dataset) for run in study.compared for dataset in study.datasets)
    )


def trained(pattern):
    """`pattern` filled in for every model of `compare` that the workflow trains."""
    names = dict.fromkeys(run["model"] for run in study.compared)
    return [pattern.format(model=name) for name in names if study.models[name]["source"] == "demo"]


ANSWERED = ("selection_frequency", "domain_specialization", "coactivation")
"""The chapters whose findings the chapter agreement makes anew."""


@cache
def agreeing():
    """The runs over the same tokens that the config holds against each other, as the chapter agreement has them."""
    lacks = {model: study.missing(model) for model in study.models}
    return agreement.of_study(config["agreement"], study.models, list(config["models"]), lacks)


def of_agreeing(pattern, over):
    """`pattern` filled in for every run of `agreement` and its datasets, or their parts."""
    parts_of = {"dataset": lambda dataset: [dataset], "part": study.parts}[over]
    return [
        pattern.format(**run, **{over: part})
        for run in agreeing().runs
        for dataset in study.datasets
        for part in parts_of(dataset)
    ]


def agreeing_alternatives():
    """The selections of the alternatives of the first run of `agreement`."""
    asked = agreeing()
    return [
        f"results/alternatives/{asked.runs[0]['model']}/{asked.runs[0]['checkpoint']}/{name}.nc"
        for name in asked.alternatives
    ]


def agreeing_unordered():
    """The runs of `agreement` of which the order of a token's experts is not known."""
    return [agreement.name_of_run(run) for run in agreeing().runs if "order" in study.missing(run["model"])]


def chosen_to_agree():
    """Which tokens the chapter agreement counts."""
    return {key: config["agreement"][key] for key in ("tokens", "seed")}


def alternative_settings(wildcards):
    """The settings of a model with those of an alternative in their place."""
    keys = ("id", "path", "layers", "dtype", "device", "attention", "experts", "gpus", "trust_remote_code")
    model = study.models[wildcards.model]
    return {key: model[key] for key in keys if key in model} | agreeing().alternatives[wildcards.alternative]


def answered_again():
    """The arguments of the measures of `ANSWERED`, by chapter."""
    draws, confidence = config["agreement"]["draws"], statistics("confidence")
    made = statistics("seed", "confidence") | {"resamples": draws}
    return {
        "selection_frequency": settings("selection_frequency") | made,
        "domain_specialization": settings("domain_specialization") | made | {"permutations": draws},
        "coactivation": settings("coactivation") | confidence,
    }


def compared_runs(chapter):
    """The names of the runs that a chapter about several of them compares; none if there are none."""
    if chapter == "agreement":
        return agreeing().names
    return [f"{run['model']}/{run['checkpoint']}" for run in study.compared]


def compared_untrained():
    """The runs of `compare` that are the untrained checkpoints of their models."""
    untrained = [run for run in study.compared if study.models[run["model"]].get("untrained") == run["checkpoint"]]
    return [f"{run['model']}/{run['checkpoint']}" for run in untrained]


def growing(amount, per_million=0):
    """A resource that grows with each attempt: a job that was stopped for want of it gets more when it is retried.

    `per_million` of it are added for each million tokens that the job's dataset may have, or all datasets of its model,
    or of all models.
    """

    def resource(wildcards, attempt):
        models = [wildcards.model] if "model" in wildcards.keys() else study.models
        variant = study.variants.get(wildcards.get("variant"))
        dataset = variant.dataset if variant else wildcards.get("dataset")
        tokens = sum(study.most_tokens(model, dataset) for model in models) if per_million else 0
        return attempt * math.ceil(amount + per_million * tokens / 10**6)

    return resource


def studied(pattern):
    """`pattern` filled in for every model of the study, at the checkpoint that the report is about."""
    return [pattern.format(model=model, checkpoint=study.studied_checkpoint(model)) for model in study.models]


def described_datasets():
    """The file that says what a dataset is, for every model and dataset: its tokens, or its counts."""
    pattern = "results/tallies/{model}/{checkpoint}" if study.of_counts else "results/inputs/{model}"
    return [f"{folder}/{dataset}.nc" for folder in studied(pattern) for dataset in study.datasets]


def model_pages():
    """The folders of the pages about one model, which need tokens."""
    kinds = {"experts": profiled, "browser": browsed}
    return [
        f"results/{kind}/{model}/{study.studied_checkpoint(model)}"
        for kind, known in kinds.items()
        for model in study.models
        if known(model)
    ]


def profiled(model):
    """Whether the chapters of a model's report say enough of its experts for profiles."""
    parts_known = {part for name in chapters(model) for part in CHAPTERS[name].expert_page}
    return parts_known.issuperset(profiles_page.NEEDS) and not {"scores", "text"} & study.missing(model).keys()


def browsed(model):
    """Whether a model's tokens, their text and their experts' weights are known, which the expert browser shows."""
    return not {"tokens", "text", "weights"} & study.missing(model).keys()


def size_limits():
    """The limits of the report's size in MB that the config sets, by their key; a study beyond them does not begin."""
    return {
        f"report.{key}": config["report"][key] for key in ("megabytes", "download_megabytes") if key in config["report"]
    }


def expert_sets():
    """The tables of expert sets that are specific to a dataset, which the pages of the expert browser link to."""
    pattern = "results/tables/{model}/{checkpoint}/expert_sets.csv"
    models = [model for model in study.models if browsed(model)]
    return [pattern.format(model=model, checkpoint=study.studied_checkpoint(model)) for model in models]


def studied_of(wildcards):
    """The wildcards of a model's studied checkpoint, for input functions."""
    return Wildcards(fromdict={"model": wildcards.model, "checkpoint": study.studied_checkpoint(wildcards.model)})


def asked(model):
    """What the config asks to be changed in a model, as the chapter interventions has it."""
    entries = config["interventions"]["asked"] if "interventions" in CHAPTERS else []
    known = {"models": list(study.models), "datasets": list(study.datasets), "catalogue": list(config["datasets"])}
    return [asdict(each) for each in of_model(entries, model, **known)]


def contrasts():
    """The pairs of the study's datasets that the config contrasts, as the chapter steering has them."""
    if "steering" not in CHAPTERS:
        return []
    return of_study(config["steering"], list(study.datasets), list(config["datasets"]))


def probe_files():
    """The files of the probes that the study selects."""
    return list(probe_sources.files(PROBES).values())


@cache
def missing(model):
    """The capabilities that a model's data lack, each with the reason."""
    lacks = {} if asked(model) else {"asked": "interventions.asked is empty"}
    lacks |= {} if contrasts() else {"contrast": "steering.pairs names no two datasets of the study"}
    lacks |= {} if PROBES else {"probes": "study.probes is empty"}
    return lacks | study.missing(model)


@cache
def left_out(model):
    """The chapters that a model's report lacks, each with the reason, which the report states."""
    lacks = missing(model)
    of_model = {name: chapter for name, chapter in CHAPTERS.items() if chapter.scope != "runs"}
    reasons = {name: [lacks[need] for need in chapter.needs if need in lacks] for name, chapter in of_model.items()}
    return {name: found[0] for name, found in reasons.items() if found}


def chapters(model):
    """The chapters of a model's report."""
    return [name for name in CHAPTERS if name not in left_out(model)]


def sections():
    """What the report shows of each chapter: {chapter, of, label}, `of` being where its files are below results/figures.

    A chapter of a checkpoint has a section for every model, at the checkpoint that is studied, one of a model for every
    model, and one of runs a single one.
    """
    found = []
    for name, chapter in CHAPTERS.items():
        models = [model for model in study.models if name in chapters(model)]
        if chapter.scope == "checkpoint":
            runs = [f"{model}/{study.studied_checkpoint(model)}" for model in models]
            found += [{"chapter": name, "of": run, "label": ", ".join(Path(run).parts)} for run in runs]
        elif chapter.scope == "model":
            found += [{"chapter": name, "of": model, "label": model} for model in models]
        elif runs := compared_runs(name):
            found.append({"chapter": name, "of": "runs", "label": ", ".join(runs)})
    return found


def shown(pattern):
    """`pattern` filled in for every section of the report."""
    return [pattern.format(**section) for section in sections()]


def every_model(pattern):
    """`pattern` filled in for every model of the study and each of its checkpoints."""
    return [
        pattern.format(model=model, checkpoint=checkpoint)
        for model in study.models
        for checkpoint in study.models[model]["checkpoints"]
    ]


def every_metrics():
    """The metrics of every chapter: of all checkpoints, models and runs that it is about."""
    metrics = shown("results/metrics/{of}/{chapter}.nc") + [
        f"results/metrics/{model}/{checkpoint}/{name}.nc"
        for model in study.models
        for checkpoint in study.models[model]["checkpoints"]
        for name in chapters(model)
        if CHAPTERS[name].scope == "checkpoint"
    ]
    return list(dict.fromkeys(metrics))


def rule_graph(report):
    """The rules that the report rests on, in the order of the workflow: what each makes, and whose outputs it reads."""
    reads, waiting, known = {}, [report], set()

    @cache
    def maker_of(path):
        return next((rule for rule in workflow.rules if rule.is_producer(path)), None)

    while waiting:
        path = waiting.pop()
        maker = maker_of(path)
        if maker is None or path in known:
            continue
        known.add(path)
        inputs = {str(each) for each in maker.expand_input(maker.get_wildcards(path))[0]}
        makers = {rule.name for rule in map(maker_of, inputs) if rule}
        reads[maker.name] = reads.get(maker.name, set()) | makers
        waiting += inputs - known
    return [
        {"rule": rule.name, "makes": rule.docstring.strip(), "reads": sorted(reads[rule.name])}
        for rule in workflow.rules
        if rule.name in reads
    ]


def commit():
    """The commit of this workflow and whether files of it were changed since, for the report."""
    if not HERE.is_dir():
        return f"imported from {HERE.parent}"
    git = ["git", "-C", str(HERE)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "not from a git checkout"
    return f"{head} {'with local changes' if changed.strip() else '(clean)'}"


def perhaps_temporary(path):
    """An output that Snakemake deletes once nothing needs it any more, unless `storage.keep_records` is true."""
    return path if config["storage"]["keep_records"] else temp(path)


def deleted_records():
    """The folders of the study's records, below the results, if Snakemake deletes them."""
    folders = [] if config["storage"]["keep_records"] else every_model("routing/{model}/{checkpoint}")
    return [f"{folder}/{name}" for folder in folders for name in (*PARTS, *study.variants)]


def removing(wildcards):
    """What of the chapter's settings a scan reads; the untrained checkpoint, which is the reference, has fewer clusters."""
    keys = ("stage", "clusters", "tested_clusters", "caliper", "seed")
    chosen = {key: config["expert_ablation"][key] for key in keys}
    if study.models[wildcards.model].get("untrained") == wildcards.checkpoint:
        chosen |= dict.fromkeys(("clusters", "tested_clusters"), config["expert_ablation"]["untrained_clusters"])
    return chosen


def scanned(wildcards):
    """What removing experts does to documents, where the report of the model has the chapter about it."""
    known = "expert_ablation" in chapters(wildcards.model)
    return f"results/ablation/{wildcards.model}/{wildcards.checkpoint}.nc" if known else []


def named_experts(wildcards):
    """What a model says that its experts are for, of the studied checkpoint, where it can be run."""
    wanted = config["annotation"]["named"] and "model" not in missing(wildcards.model)
    if not wanted or study.studied_checkpoint(wildcards.model) != wildcards.checkpoint:
        return []
    return f"results/named/{wildcards.model}/{wildcards.checkpoint}.nc"


def choice_files():
    """The folder or tar with the items of multiple choice, if they are not made of text; or one sentence that says what is wrong."""
    from gatebook.inputs.sources import items

    settings = config["multiple_choice"]
    try:
        files = items.files(settings)
    except Problem as problem:
        sys.exit(f"Error: {problem}")
    if settings["source"] == "files" and not (ON_OBJECT_STORAGE or os.path.exists(prefixed(files[0]))):
        sys.exit(f"Error: config: multiple_choice.path: {prefixed(files[0])} does not exist: correct the path.")
    return files


if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", max(model["gpus"] for model in study.models.values()))


wildcard_constraints:
    model=MODEL,
    chapter="|".join(CHAPTERS),
    of=f"{MODEL}(/[A-Za-z0-9._-]+)?",
    checkpoint="[A-Za-z0-9._-]+",
    dataset=DATASET,
    variant=VARIANT,
    part=f"{EXTRACTED}|{VARIANT}",
    alternative="[a-z0-9._-]+",
