"""A right config is completed, and each wrong one is a single sentence with the key, the value and the remedy."""

import math
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from gatebook import lists
from gatebook.inputs import catalogues
from gatebook.problem import Problem
from gatebook.run import check_config, configuration

ROOT = Path(__file__).parents[2]
CHAPTERS = lists.known_chapters(ROOT)
BASE = yaml.safe_load((ROOT / "config" / "schemas" / "config.schema.yaml").read_text())
SCHEMA = catalogues.with_sources(configuration.with_chapters(BASE, CHAPTERS))
HUB = {"source": "hub", "id": "allenai/OLMoE-1B-7B-0924", "revision": "main"}
DELETE = "delete this key"
NAN = math.nan


def config() -> dict:
    """A config with a model and a dataset of every source."""
    base = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    base["models"] = {
        "demo": {
            "source": "demo",
            "checkpoints": ["step0", "step600"],
            "untrained": "step0",
            "tokens_per_dataset": 12_000,
        },
        "olmoe": dict(HUB),
        "mine": {"source": "local", "path": "data/mine"},
    }
    base["datasets"] = {
        "python": {"source": "demo", "domain": "python"},
        "c4": {"source": "hub", "path": "allenai/c4", "split": "validation", "revision": "main"},
        "gsm8k": {
            "source": "files",
            "files": ["a.jsonl"],
            "template": "{question} {answer}",
            "question_only": "{question}",
        },
        "wordless": {"source": "files", "files": ["a.jsonl"], "template": "Q:", "question_only": "{a"},
    }
    base["demo"]["corpora"]["domains"] = ["python", "json"]
    base["demo"]["training"] |= {"steps": 600, "checkpoints": [0, 10, 600]}
    base["study"] = {"title": "A study", "models": ["demo"], "datasets": ["python"]}
    base["compare"] = ["demo/step0", "demo/step600"]
    return base


def changed(path: str, value) -> dict:
    """The config with the value at a path such as "models/demo/layers" replaced or removed."""
    whole = config()
    *parents, last = path.split("/")
    part = whole
    for parent in parents:
        part = part.setdefault(parent, {})
    if value is DELETE:
        del part[last]
    else:
        part[last] = value
    return whole


def resolved(wrong: dict) -> catalogues.Study:
    return catalogues.resolve(configuration.check(wrong, SCHEMA), CHAPTERS)


# ---------------------------------------------------------------- right ones


def test_the_default_config_is_right_and_stays_as_it_is():
    default = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    before = deepcopy(default)
    study = resolved(default)
    assert list(study.models) == ["demo"]
    assert list(study.datasets) == default["study"]["datasets"]
    assert default == before


@pytest.mark.parametrize(
    ("dataset", "models", "shards"),
    [
        ({}, {"demo": 300, "mine": 1001}, 11),
        ({}, {"demo": 300, "mine": "all"}, 1),
        ({"limits": {"tokens": 250}}, {"demo": 300, "mine": "all"}, 3),
        ({"limits": {"tokens": 250}}, {"demo": 200}, 2),
        ({"shards": 4}, {"demo": "all"}, 4),
        ({"shards": 4, "limits": {"tokens": 2000}}, {"demo": 1000}, 4),
    ],
)
def test_shards_are_those_stated_or_follow_from_the_limits(dataset, models, shards):
    whole = config()
    whole["storage"]["tokens_per_shard"] = 100
    whole["datasets"]["gsm8k"] |= dataset
    for name, tokens in models.items():
        whole["models"][name]["tokens_per_dataset"] = tokens
    whole["study"] |= {"models": list(models), "datasets": ["gsm8k", "gsm8k.question_only"]}
    whole["compare"] = []
    study = resolved(whole)
    assert study.shards == {"gsm8k": shards, "gsm8k.question_only": shards}
    assert all("shards" not in settings for settings in study.datasets.values())  # which would make tokens again
    assert len(study.parts("gsm8k")) == shards and study.parts("gsm8k")[-1].startswith("gsm8k")


def test_a_language_is_that_of_a_dataset_and_makes_no_tokens_again():
    whole = changed("datasets/gsm8k/language", "de")
    whole["study"]["datasets"] = ["python", "gsm8k"]
    study = resolved(whole)
    assert study.languages == {"gsm8k": "de"} and "language" not in study.datasets["gsm8k"]
    with pytest.raises(
        Problem, match=r"datasets\.gsm8k\.language: 'xx' is not known: use one of en, fr, de, es, zh, ja\."
    ):
        resolved(changed("datasets/gsm8k/language", "xx"))


def test_the_most_tokens_of_a_model_are_those_of_its_limits():
    whole = config()
    whole["datasets"]["gsm8k"]["limits"] = {"tokens": 700}
    whole["models"]["mine"]["tokens_per_dataset"] = 500
    whole["models"]["demo"]["tokens_per_dataset"] = "all"
    whole["study"] |= {"models": ["mine", "demo"], "datasets": ["gsm8k", "python"]}
    whole["compare"] = []
    study = resolved(whole)
    assert study.most_tokens("mine") == 500 + 500 and study.most_tokens("demo", "gsm8k") == 700
    assert study.most_tokens("demo") == 700 + 10**6  # the second one has no limit


def test_defaults_are_filled_at_every_level_and_given_values_kept():
    whole = config()
    whole["models"]["olmoe"] |= {"layers": ["0-3", 5], "dtype": "bfloat16"}
    whole["datasets"]["c4"]["limits"] = {"documents": 10}
    complete = configuration.check(whole, SCHEMA)
    assert complete["models"]["olmoe"] == HUB | {
        "layers": ["0-3", 5],
        "dtype": "bfloat16",
        "device": "auto",
        "attention": "auto",
        "experts": "auto",
        "gpus": 1,
        "window": "context",
        "tokens_per_dataset": "all",
        "trust_remote_code": False,
    }
    assert complete["datasets"]["python"] == {
        "source": "demo",
        "domain": "python",
        "sample_by": "line",
        "template": "{text}",
        "limits": {},
    }
    assert complete["datasets"]["c4"]["limits"] == {"documents": 10}
    complete["datasets"]["python"]["limits"]["tokens"] = 5
    assert complete["datasets"]["gsm8k"]["limits"] == {}  # no default is shared


@pytest.mark.parametrize("layers", ["all", 0, 3, "0", "0-3", "3-3", [0, "2-3", 1]])
def test_layers_may_be_written_in_these_ways(layers):
    assert resolved(changed("models/demo/layers", layers)).models["demo"]["layers"] == layers


def test_a_study_resolves_checkpoints_and_folders_of_every_source():
    whole = changed("study/models", ["mine", "demo", "olmoe"])
    models = resolved(whole).models
    assert list(models) == ["mine", "demo", "olmoe"]
    assert models["mine"]["folders"] == {"local": "data/mine"}
    assert models["demo"]["folders"] == {name: f"results/demo/checkpoints/demo/{name}" for name in ("step0", "step600")}
    assert models["demo"]["window"] == whole["demo"]["model"]["context"]
    assert models["olmoe"]["folders"] == {"main": "results/models/olmoe/main"}
    whole["models"]["mine"]["checkpoints"] = ["early", "late"]
    study = resolved(whole)
    assert study.models["mine"]["folders"] == {"early": "data/mine/early", "late": "data/mine/late"}
    assert study.studied_checkpoint("mine") == "late"
    whole["models"]["olmoe"]["checkpoints"] = ["step5-tokens1B", "main"]
    del whole["models"]["olmoe"]["revision"]
    folders = {name: f"results/models/olmoe/{name}" for name in ("step5-tokens1B", "main")}
    assert resolved(whole).models["olmoe"]["folders"] == folders


def test_training_checkpoints_are_those_of_the_model_or_all_that_are_saved_up_to_the_studied_one():
    assert resolved(config()).models["demo"]["training_checkpoints"] == ["step0", "step600"]
    study = resolved(changed("models/demo/training_checkpoints", "all"))
    assert study.models["demo"]["training_checkpoints"] == ["step0", "step10", "step600"]
    assert study.folder("demo", "step10") == "results/demo/checkpoints/demo/step10"
    assert study.models["demo"]["checkpoints"] == ["step0", "step600"] and "checkpoints" not in study.missing("demo")
    whole = changed("models/demo/training_checkpoints", "all")
    whole["models"]["demo"] |= {"checkpoints": ["step0"]}
    whole["compare"] = []
    early = resolved(whole)
    assert early.models["demo"]["training_checkpoints"] == ["step0"]
    assert early.missing("demo")["checkpoints"] == "the model has one checkpoint"


def test_training_checkpoints_of_the_hub_and_of_folders_are_lists():
    whole = changed("study/models", ["mine", "olmoe"])
    whole["compare"] = []
    whole["models"]["olmoe"]["training_checkpoints"] = ["step5-tokens1B", "main"]
    whole["models"]["mine"] |= {"checkpoints": ["late"], "training_checkpoints": ["early", "late"]}
    models = resolved(whole).models
    assert models["olmoe"]["checkpoints"] == ["main"]
    assert list(models["olmoe"]["folders"]) == ["main", "step5-tokens1B"]
    assert models["mine"]["folders"] == {"late": "data/mine/late", "early": "data/mine/early"}
    for name in ("mine", "olmoe"):
        wrong = deepcopy(whole)
        wrong["models"][name]["training_checkpoints"] = "all"
        with pytest.raises(Problem, match=rf"^config: models\.{name}\.training_checkpoints: only of the embedded "):
            resolved(wrong)
    del whole["models"]["mine"]["checkpoints"]
    with pytest.raises(Problem, match="they are subfolders of `path`, and none of them is studied: add `checkpoints`"):
        resolved(whole)


def test_seeds_and_variants_of_the_embedded_model_change_only_what_they_name():
    whole = config()
    one = {"source": "demo", "checkpoints": ["step600"]}
    whole["models"] |= {
        "demo_1": one | {"seed": 1},
        "switch": one | {"model": {"experts_per_token": 1}, "training": {"load_balancing_loss": 0}},
    }
    whole["study"]["models"] = ["demo", "demo_1", "switch"]
    models = resolved(whole).models
    plain, training = whole["demo"]["model"], whole["demo"]["training"]
    assert (models["demo"]["model"], models["demo"]["training"]) == (plain, training)
    assert (models["demo_1"]["model"], models["demo_1"]["training"]) == (plain, training | {"seed": 1})
    assert models["switch"]["model"] == plain | {"experts_per_token": 1}
    assert models["switch"]["training"] == training | {"load_balancing_loss": 0}
    assert models["demo_1"]["folders"] == {"step600": "results/demo/checkpoints/demo_1/step600"}


def test_the_full_study_has_seeds_and_variants_with_as_many_active_weights():
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    overlay = yaml.safe_load((ROOT / "config/full.yaml").read_text(encoding="utf-8"))
    for section in ("study", "models"):
        default[section] |= overlay[section]
    default["tasks"] = {name: default["tasks"].get(name, {}) | given for name, given in overlay["tasks"].items()}
    study = resolved(default | {"compare": overlay["compare"]})
    sizes = {
        name: (each["model"]["experts_per_token"], each["model"]["experts"]) for name, each in study.models.items()
    }
    assert sizes["demo"] == sizes["demo_1"] == sizes["no_balancing"] == (4, 32)
    assert (sizes["switch"], sizes["few_experts"], sizes["many_experts"]) == ((1, 32), (4, 8), (8, 64))
    active = {each["model"]["experts_per_token"] * each["model"]["expert_size"] for each in study.models.values()}
    assert active == {192}
    assert len({each["training"]["seed"] for each in study.models.values()}) == 3
    assert [run["model"] for run in study.compared] == list(study.models)


def test_a_question_only_variant_takes_the_other_template_and_nothing_else():
    datasets = resolved(changed("study/datasets", ["gsm8k", "gsm8k.question_only"])).datasets
    assert datasets["gsm8k"]["template"] == "{question} {answer}"
    assert datasets["gsm8k.question_only"] == datasets["gsm8k"] | {"template": "{question}"}


def test_the_name_of_an_entry_with_values_selects_all_of_its_domains():
    whole = changed("study/datasets", ["python", "gsm8k", "gsm8k.question_only"])
    whole["datasets"]["gsm8k"] |= {"by": "topic", "values": ["sums", "rates"], "cluster": "author"}
    study = resolved(deepcopy(whole))
    names = ["gsm8k_sums", "gsm8k_rates"]
    assert list(study.datasets) == ["python", *names, *(f"{name}.question_only" for name in names)]
    assert study.datasets["gsm8k_rates"]["where"] == {"topic": "rates"}
    assert study.datasets["gsm8k_rates.question_only"]["template"] == "{question}"
    assert not {"by", "values"} & study.datasets["gsm8k_rates"].keys()
    assert study.dataset_files("gsm8k_sums.question_only") == ["a.jsonl"]
    whole["study"]["datasets"] = ["gsm8k_rates"]
    assert list(resolved(deepcopy(whole)).datasets) == ["gsm8k_rates"]
    before = study.datasets["gsm8k_sums"]
    whole["datasets"]["gsm8k"]["values"] = ["distances", "sums"]
    whole["study"]["datasets"] = ["gsm8k"]
    assert resolved(whole).datasets["gsm8k_sums"] == before  # so it is not made again


def test_what_is_fetched_of_a_domain_on_the_hub_is_its_rows():
    whole = changed("study/datasets", ["c4.question_only"])
    whole["datasets"]["c4"] |= {"question_only": "{text}", "limits": {"documents": 7}}
    rows = {"path": "allenai/c4", "name": None, "split": "validation", "revision": "main", "documents": 7}
    assert resolved(deepcopy(whole)).fetched("c4") == rows
    whole["datasets"]["c4"] |= {"by": "lang", "values": ["en"]}
    study = resolved(whole)
    assert study.fetched("c4_en") == rows | {"where": {"lang": "en"}}
    assert study.dataset_files("c4_en.question_only") == ["results/datasets/c4_en.parquet"]


def test_what_the_study_does_not_select_is_one_sentence():
    study = resolved(changed("study/datasets", ["python", "c4"]))
    sentence = r"^config: study\.datasets: 'gsm8k' is not in the study: use one of python, c4, or select it there\.$"
    for asked in (study.fetched, study.dataset_files, lambda name: study.most_tokens("demo", name)):
        with pytest.raises(Problem, match=sentence):
            asked("gsm8k")
    with pytest.raises(Problem, match=r"^config: datasets\.python is not on the hub: it has no rows to fetch\.$"):
        study.fetched("python")
    with pytest.raises(Problem, match=r"^config: study\.models: 'other' is not in the study: use one of demo, or"):
        study.folder("other", "local")
    with pytest.raises(Problem, match=r"^config: models\.demo has no checkpoint 'best': use one of .*, or add it\.$"):
        study.folder("demo", "best")


def test_roles_and_phases_are_variants_in_place_of_their_dataset():
    whole = changed("study/datasets", ["talk", "python"])
    whole["datasets"]["talk"] = {"source": "files", "files": ["a.jsonl"], "chat": True}
    whole["datasets"]["python"]["generate"] = {"tokens": 4}
    study = resolved(whole)
    roles = [f"talk.{role}" for role in ("system", "user", "assistant", "template")]
    assert list(study.datasets) == ["talk", "python"]
    assert study.told_apart == list(study.variants) == [*roles, "python.given", "python.generated"]
    assert "roles" not in study.missing("demo") and "roles" in resolved(config()).missing("demo")
    whole["datasets"]["talk"]["roles"] = ["user"]
    whole["datasets"]["python"] = config()["datasets"]["python"]
    assert resolved(whole).told_apart == ["talk.user", "talk.template", "python"]


@pytest.mark.parametrize(
    ("stated", "columns"), [(DELETE, []), ("url", ["url"]), (["url", "author"], ["url", "author"])]
)
def test_the_cluster_of_a_dataset_is_a_list_of_columns(stated, columns):
    whole = changed("study/datasets", ["gsm8k", "gsm8k.question_only"])
    if stated is not DELETE:
        whole["datasets"]["gsm8k"]["cluster"] = stated
    assert [dataset["cluster"] for dataset in resolved(whole).datasets.values()] == [columns, columns]


def test_datasets_of_the_same_files_must_have_the_same_clusters():
    whole = changed("study/datasets", ["gsm8k", "answers"])
    whole["datasets"]["gsm8k"]["cluster"] = "url"
    whole["datasets"]["answers"] = whole["datasets"]["gsm8k"] | {"template": "{answer}"}
    assert len(resolved(deepcopy(whole)).datasets) == 2
    whole["datasets"]["answers"]["cluster"] = ["url", "author"]
    with pytest.raises(Problem) as raised:
        resolved(deepcopy(whole))
    assert str(raised.value) == (
        "config: datasets.answers.cluster: ['url', 'author'] is not that of gsm8k (['url']), which has the same files: "
        "write the same columns for both."
    )
    whole["datasets"]["answers"]["files"] = ["b.jsonl"]
    assert len(resolved(whole).datasets) == 2


def test_tasks_of_the_embedded_study_are_for_its_model_alone_and_others_for_all():
    whole = config()
    whole["tasks"]["mine"] = {"source": "files", "files": ["pairs.jsonl"]}
    whole["study"]["tasks"] = ["bracket", "mine"]
    study = resolved(whole)
    assert {name: task["files"] for name, task in study.tasks.items()} == {
        "bracket": ["results/demo/corpora/held_out/python.jsonl"],
        "mine": ["pairs.jsonl"],
    }
    assert study.local_paths()["tasks.mine.files[0]"] == "pairs.jsonl" and "tasks" not in study.missing("demo")
    whole["study"]["models"] = ["demo", "olmoe"]
    assert list(resolved(whole).tasks) == ["mine"]
    whole["study"]["tasks"] = ["bracket"]
    assert "study.tasks names none" in resolved(whole).missing("olmoe")["tasks"]
    del whole["study"]["tasks"]
    assert not resolved(whole).tasks


def test_local_paths_are_those_of_the_selected_models_and_datasets():
    whole = changed("study", {"title": "A study", "models": ["mine"], "datasets": ["python", "gsm8k"]})
    assert resolved(whole).local_paths() == {"models.mine.path": "data/mine", "datasets.gsm8k.files[0]": "a.jsonl"}


@pytest.mark.parametrize(
    ("overlay", "merged"),
    [
        ({}, {"a": {"b": 1, "c": {"d": 2}}, "x": {"source": "demo", "domain": "x"}}),
        (
            {"a": {"c": {"d": 3, "e": 4}}},
            {"a": {"b": 1, "c": {"d": 3, "e": 4}}, "x": {"source": "demo", "domain": "x"}},
        ),
        ({"a": [1]}, {"a": [1], "x": {"source": "demo", "domain": "x"}}),
        (
            {"a": {"b": {"f": 5}}, "x": {"domain": "y"}},
            {"a": {"b": {"f": 5}, "c": {"d": 2}}} | {"x": {"source": "demo", "domain": "y"}},
        ),
        (
            {"x": {"source": "demo", "limits": {}}},
            {"a": {"b": 1, "c": {"d": 2}}} | {"x": {"source": "demo", "domain": "x", "limits": {}}},
        ),
        ({"x": {"source": "files"}}, {"a": {"b": 1, "c": {"d": 2}}, "x": {"source": "files"}}),
    ],
)
def test_overlays_are_merged_and_an_entry_of_another_source_replaces(overlay, merged):
    default = {"a": {"b": 1, "c": {"d": 2}}, "x": {"source": "demo", "domain": "x"}}
    before = deepcopy(default)
    assert configuration.laid_over(default, overlay) == merged
    assert default == before


# ---------------------------------------------------------------- wrong ones


WRONG = [
    # a key that is unknown, at each level
    ("studdy", {}, "the key 'studdy' is unknown: did you mean 'study'?"),
    ("study/dataset", [], "study: the key 'dataset' is unknown: did you mean 'datasets'?"),
    ("models/demo/checkpoint", ["step0"], "models.demo: the key 'checkpoint' is unknown: did you mean 'checkpoints'?"),
    (
        "datasets/gsm8k/limits",
        {"token": 3},
        "datasets.gsm8k.limits: the key 'token' is unknown: did you mean 'tokens'?",
    ),
    ("demo/training/seeds", 3, "demo.training: the key 'seeds' is unknown: did you mean 'seed'?"),
    (
        "extraction/tokens_per_batch/tpu",
        1,
        "extraction.tokens_per_batch: the key 'tpu' is unknown: did you mean 'cpu'?",
    ),
    (
        "statistics/xyzzy",
        1,
        "statistics: the key 'xyzzy' is unknown: use one of seed, fewest_clusters, few_clusters, resamples",
    ),
    (
        "router_decisiveness",
        {"thresholds": {"x": 1}},
        "router_decisiveness.thresholds: the key 'x' is unknown: use one of tied, decisive_entropy, ",
    ),
    # a key that is missing
    ("study", DELETE, "the key 'study' is missing: add it."),
    ("statistics/seed", DELETE, "statistics: the key 'seed' is missing: add it."),
    ("models/demo/source", DELETE, "models.demo: the key 'source' is missing: add it."),
    ("models/demo/checkpoints", DELETE, "models.demo: the key 'checkpoints' is missing: add it."),
    ("models/olmoe/id", DELETE, "models.olmoe: the key 'id' is missing: add it."),
    ("models/mine/path", DELETE, "models.mine: the key 'path' is missing: add it."),
    ("datasets/c4/split", DELETE, "datasets.c4: the key 'split' is missing: add it."),
    ("datasets/gsm8k/files", DELETE, "datasets.gsm8k: the key 'files' is missing: add it."),
    # a key of another source
    ("models/mine/seed", 1, "models.mine: the key 'seed' does not go with `source: local`: remove it."),
    ("models/demo/seed", -1, "models.demo.seed: -1 is not allowed: write a whole number of at least 0."),
    ("models/demo/model", {"expert": 4}, "models.demo.model: the key 'expert' is unknown: did you mean 'experts'?"),
    ("models/demo/training", {"steps": 9}, "models.demo.training: the key 'steps' is unknown: use one of batch_size, "),
    ("models/demo/path", "x", "models.demo: the key 'path' does not go with `source: demo`: remove it."),
    ("models/mine/revision", "x", "models.mine: the key 'revision' does not go with `source: local`: remove it."),
    ("datasets/c4/files", ["x"], "datasets.c4: the key 'files' does not go with `source: hub`: remove it."),
    # a wrong type
    ("models", None, "models: it is empty: write a mapping of keys to values."),
    ("models/demo", "olmoe", "models.demo: 'olmoe' is not allowed: write a mapping of keys to values."),
    ("study/models", "demo", "study.models: 'demo' is not allowed: write a list with at least one entry."),
    ("study/title", 2024, "study.title: 2024 is not allowed: write text in quotes that is not empty."),
    (
        "statistics/resamples",
        "1000",
        "statistics.resamples: '1000' is not allowed: write a whole number of at least 100.",
    ),
    ("models/olmoe/trust_remote_code", "yes", "models.olmoe.trust_remote_code: 'yes' is not allowed: write true or f"),
    (
        "models/olmoe/revision",
        123,
        "models.olmoe.revision: 123 is not allowed: write a branch, tag or commit in quotes",
    ),
    (
        "datasets/gsm8k/files",
        "a.jsonl",
        "datasets.gsm8k.files: 'a.jsonl' is not allowed: write a list with at least one",
    ),
    # a wrong value
    ("models/demo/source", "hubb", "models.demo.source: 'hubb' is not known: use one of demo, hub, local, counts"),
    (
        "models/demo/dtype",
        "int8",
        "models.demo.dtype: 'int8' is not known: use one of auto, float32, bfloat16, float16.",
    ),
    ("datasets/gsm8k/format", "xml", "datasets.gsm8k.format: 'xml' is not known: use one of json, jsonl, parquet, csv"),
    (
        "models/demo/device",
        "gpu",
        "models.demo.device: 'gpu' is not allowed: write auto, cpu, cuda, or a numbered device",
    ),
    ("models/olmoe/id", "a b", "models.olmoe.id: 'a b' is not allowed: write the repository on the hub, such as "),
    ("statistics/confidence", 1.5, "statistics.confidence: 1.5 is not allowed: write a number above 0 and below 1."),
    ("statistics/seed", -1, "statistics.seed: -1 is not allowed: write a whole number of at least 0."),
    ("demo/training/learning_rate", 0, "demo.training.learning_rate: 0 is not allowed: write a number above 0."),
    ("models/demo/window", 1, "models.demo.window: 1 is not allowed: write context, or a whole number of tokens of at"),
    ("models/demo/tokens_per_dataset", "many", "models.demo.tokens_per_dataset: 'many' is not allowed: write all, or"),
    ("models/pooled", HUB, "models: 'pooled' is not allowed: write a name of letters, digits, _ and -"),
    ("models/a b", HUB, "models: 'a b' is not allowed: write a name of letters, digits, _ and -"),
    # layers
    ("models/demo/layers", "x", "models.demo.layers: 'x' is not allowed: write all, a layer such as 3, a range"),
    ("models/demo/layers", -1, "models.demo.layers: -1 is not allowed: write all, a layer such as 3, a range"),
    ("models/demo/layers", [], "models.demo.layers: [] is not allowed: write all, a layer such as 3, a range"),
    ("models/demo/layers", True, "models.demo.layers: True is not allowed: write all, a layer such as 3, a range"),
    ("models/demo/layers", "3-1", 'models.demo.layers: "3-1" holds no layer: write "1-3".'),
    ("models/demo/layers", [0, "3-2"], 'models.demo.layers: "3-2" holds no layer: write "2-3".'),
    ("models/mine/layers", "0-3000000000", "models.mine.layers: '0-3000000000' is not allowed: write all, a layer"),
    ("models/mine/layers", 10000, "models.mine.layers: 10000 is not allowed: write all, a layer such as 3, a range"),
    # numbers that are none, or too large
    (
        "statistics/confidence",
        NAN,
        "statistics.confidence: nan is not allowed: write a number above 0 and below 1.",
    ),
    (
        "coactivation",
        {"thresholds": {"strong_lift": NAN}},
        "coactivation.thresholds.strong_lift: nan is not allowed: write a number above 1.",
    ),
    ("report/megabytes", math.inf, "report.megabytes: inf is not allowed: write a number above 0."),
    ("browser/pairs", 64.0, "browser.pairs: 64.0 is not a whole number: write 64."),
    ("models/demo/window", 64.0, "models.demo.window: 64.0 is not a whole number: write 64."),
    ("models/demo/layers", 3.0, "models.demo.layers: 3.0 is not a whole number: write 3."),
    ("browser/pairs", 2.5, "browser.pairs: 2.5 is not allowed: write a whole number of at least 0."),
    (
        "statistics/seed",
        2**63,
        "statistics.seed: 9223372036854775808 is too large: write a whole number of at least 0 and below 2^63.",
    ),
    (
        "datasets/gsm8k/shards",
        200_000,
        "datasets.gsm8k.shards: 200000 is not allowed: write a whole number of at least 1 and of at most 10000.",
    ),
    (
        "storage/tokens_per_shard",
        1,
        "storage.tokens_per_shard: datasets.python would have 12,000 shards, more than 10,000: raise it.",
    ),
    # names and paths
    ("study/title", "", "study.title: '' is not allowed: write text in quotes that is not empty."),
    ("datasets/gsm8k/files", [""], "datasets.gsm8k.files.0: '' is not allowed: write a path in quotes that is not"),
    ("datasets/gsm8k/files", ["{a}.txt"], "datasets.gsm8k.files.0: '{a}.txt' is not allowed: write a path in quotes"),
    ("models/mine/path", "a\n", "models.mine.path: 'a\\n' is not allowed: write a path in quotes that is not empty"),
    ("models/a\n", HUB, "models: 'a\\n' is not allowed: write a name of letters, digits, _ and -, at most 100,"),
    (f"models/{300 * 'a'}", HUB, f"models: '{99 * 'a'}… is not allowed: write a name of letters, digits, _ and -"),
    ("models/olmoe/id", "a/b\n", "models.olmoe.id: 'a/b\\n' is not allowed: write the repository on the hub, such as"),
    (
        "models/olmoe/revision",
        "refs/pr/1",
        "models.olmoe.revision: 'refs/pr/1' is not allowed: write a branch, tag or commit in quotes, of letters, "
        "digits, ., _ and -, at most 100 (instead of one with a slash, such as refs/pr/1, the commit that it stands",
    ),
    # domains and templates
    (
        "datasets/gsm8k/values",
        ["a"],
        "datasets.gsm8k: `values` needs `by`: add it; `make values` prints the values of a",
    ),
    (
        "datasets/c4/by",
        "lang",
        "datasets.c4: `by` needs `values`: add it; `make values` prints the values of a column.",
    ),
    ("datasets/gsm8k/values", [True], "datasets.gsm8k.values.0: True is not allowed: write text in quotes, or a whole"),
    ("datasets/gsm8k/values", ["a", "a"], "datasets.gsm8k.values: ['a', 'a'] holds an entry twice: remove one."),
    (
        "datasets/gsm8k/where",
        {"x": 1.5},
        "datasets.gsm8k.where.x: 1.5 is not allowed: write a value, or a list of values,",
    ),
    ("datasets/python/where", {"x": 1}, "datasets.python: the key 'where' does not go with `source: demo`: remove it."),
    (
        "study/datasets",
        ["wordless"],
        "datasets.wordless.template: 'Q:' is no template (it names no column): write {column} for a column,",
    ),
    (
        "study/datasets",
        ["wordless.question_only"],
        "datasets.wordless.question_only: '{a' is no template (a brace has no pair): write {column} for a column,",
    ),
    # lists
    ("compare", None, 'compare: it is empty: write a list of runs, such as ["demo/step0", "demo/step400"], or [].'),
    ("study/models", [], "study.models: [] is not allowed: write a list with at least one entry."),
    (
        "models/demo/checkpoints",
        [],
        "models.demo.checkpoints: [] is not allowed: write a list with at least one entry.",
    ),
    ("demo/corpora/domains", [], "demo.corpora.domains: [] is not allowed: write a list with at least one entry."),
    ("study/datasets", ["python", "python"], "study.datasets: ['python', 'python'] holds an entry twice: remove one."),
    # names that do not fit together
    (
        "study/models",
        ["olmo"],
        "study.models: 'olmo' is not in the catalogue `models`: use one of demo, olmoe, mine, or",
    ),
    (
        "study/tasks",
        ["opertor"],
        "study.tasks: 'opertor' is not in the catalogue `tasks`: use one of operator, bracket",
    ),
    ("study/tasks", ["bracket", "bracket"], "study.tasks: ['bracket', 'bracket'] holds an entry twice: remove one."),
    ("study/tasks", ["operator"], "tasks.operator.kind: operator needs a domain that is not harvested: add arithmetic"),
    ("tasks/operator", {"source": "demo"}, "tasks.operator: the key 'kind' is missing: add it."),
    ("tasks/operator/kind", "x", "tasks.operator.kind: 'x' is not known: use one of operator, bracket."),
    ("tasks/operator/files", ["a"], "tasks.operator: the key 'files' does not go with `source: demo`: remove it."),
    ("tasks/operator/pairs", 0, "tasks.operator.pairs: 0 is not allowed: write a whole number of at least 1."),
    ("tasks/mine", {"source": "files"}, "tasks.mine: the key 'files' is missing: add it."),
    (
        "study/datasets",
        ["pyton"],
        "study.datasets: 'pyton' is not in the catalogue `datasets`: use one of python, c4, ",
    ),
    (
        "study/datasets",
        ["x.question_only"],
        "study.datasets: 'x' is not in the catalogue `datasets`: use one of python",
    ),
    (
        "study/datasets",
        ["python.question_only"],
        "study.datasets: 'python.question_only' needs a template: add datasets.python.question_only.",
    ),
    ("datasets/python/roles", ["user"], "datasets.python: the key 'roles' does not go with `source: demo`: remove it."),
    ("datasets/c4/generate", {}, "datasets.c4.generate: the key 'tokens' is missing: add it."),
    (
        "datasets/python/domain",
        "cpp",
        "datasets.python.domain: 'cpp' is not harvested: use one of python, json, or add it to demo.corpora.domains.",
    ),
    (
        "models/demo/checkpoints",
        ["step0", "step7"],
        "models.demo.checkpoints: 'step7' is not saved by the training: use one of step0, step10, step600, or add",
    ),
    (
        "models/demo/untrained",
        "step10",
        "models.demo.untrained: 'step10' is not among the model's checkpoints: use one of step0, step600, or add it",
    ),
    (
        "models/demo/training_checkpoints",
        ["step0", "step7", "step600"],
        "models.demo.training_checkpoints: 'step7' is not saved by the training: use one of step0, step10, step600, or",
    ),
    (
        "models/demo/training_checkpoints",
        ["step0", "step10"],
        "models.demo.training_checkpoints: 'step10' is the last one, but 'step600' is studied: write them in training "
        "order, 'step600' at the end.",
    ),
    (
        "models/demo/training_checkpoints",
        "some",
        "models.demo.training_checkpoints: 'some' is not allowed: write all, or a list of checkpoints in training "
        "order.",
    ),
    ("compare", ["demo"], "compare.0: 'demo' is not allowed: write a model and one of its checkpoints, such as demo/"),
    ("compare", ["demo/step0"] * 2, "compare: ['demo/step0', 'demo/step0'] holds an entry twice: remove one."),
    ("compare", ["demo/step0"], "compare: demo/step0 is a single run: add another one, or write []."),
    ("compare", ["demo/step0", "olmoe/main"], "compare: olmoe/main: the study has no model 'olmoe': use one of demo,"),
    ("compare", ["demo/step0", "omle/main"], "compare: omle/main: the study has no model 'omle': use one of demo, or"),
    ("compare", ["omle/a", "omle/b"], "compare: omle/a: the study has no model 'omle': use one of demo, or add it to"),
    (
        "compare",
        ["demo/step0", "demo/step10"],
        "compare: demo/step10: 'step10' is not among the model's checkpoints: use one of step0, step600, or add it to",
    ),
    (
        "models/demo/model",
        {"experts": 4, "experts_per_token": 8},
        "models.demo.model: a token cannot select 8 of 4 experts: lower experts_per_token or raise experts.",
    ),
    (
        "demo/training/steps",
        100,
        "demo.training.checkpoints: 600 is after the last step: raise demo.training.steps (100) or remove it.",
    ),
]


@pytest.mark.parametrize(("path", "value", "sentence"), WRONG, ids=str)
def test_a_wrong_config_is_one_sentence(path, value, sentence):
    with pytest.raises(Problem) as raised:
        resolved(changed(path, value))
    text = str(raised.value)
    assert text.startswith(f"config: {sentence}")
    assert "\n" not in text
    assert text.endswith((".", "?"))


@pytest.mark.parametrize(("key", "value"), [("checkpoints", ["v1", "v2"]), ("revision", DELETE)])
def test_a_hub_model_has_either_a_revision_or_checkpoints(key, value):
    whole = changed(f"models/olmoe/{key}", value)
    whole["study"]["models"] = ["olmoe"]
    with pytest.raises(
        Problem, match=r"models\.olmoe: write `revision`, for one checkpoint, or `checkpoints`, for sev"
    ):
        resolved(whole)


FORMER = {  # thresholds of version 0.1, and the chapter in whose section each stands now
    "decisive_entropy": "router_decisiveness",
    "balanced_variation": "selection_frequency",
    "dropped_share": "selection_frequency",
    "strong_lift": "coactivation",
    "remaining_lift": "coactivation",
    "plane_variance": "maps",
}


@pytest.mark.parametrize("key", FORMER)
def test_a_threshold_of_version_0_1_is_told_its_new_place(key):
    with pytest.raises(Problem) as raised:
        resolved(changed("report/thresholds", {key: 0.5}))
    name = f"{FORMER[key]}.thresholds.{key}"
    assert str(raised.value) == f"config: report.thresholds.{key}: it is now {name}: move it there."


@pytest.mark.parametrize("value", [None, 3, {}, {"xyzzy": 1}])
def test_thresholds_that_no_version_had_are_an_unknown_key(value):
    with pytest.raises(Problem, match=r"^config: report: the key 'thresholds' is unknown: use one of description, "):
        resolved(changed("report/thresholds", value))


def test_the_mistyped_key_is_named_before_the_missing_one():
    whole = config()
    whole["models"]["olmoe"]["revison"] = whole["models"]["olmoe"].pop("revision")
    with pytest.raises(Problem, match=r"models\.olmoe: the key 'revison' is unknown: did you mean 'revision'\?"):
        resolved(whole)


def test_runs_to_compare():
    assert resolved(config()).compared == [{"model": "demo", "checkpoint": name} for name in ("step0", "step600")]
    assert resolved(changed("compare", [])).compared == resolved(changed("compare", DELETE)).compared == []


def test_the_comparison_of_models_that_a_study_does_not_select_is_left_out():
    assert resolved(changed("study/models", ["olmoe"])).compared == []


COUNTS = {
    "source": "counts",
    "id": "a/b",
    "revision": "v1",
    "files": ["a.csv", "b.csv"],
    "experts_per_layer": 8,
    "experts_per_token": 2,
}


def counts(**changes) -> dict:
    """The config of a study of published counts, with changes to its model."""
    whole = config()
    whole["models"]["published"] = COUNTS | changes
    whole["datasets"]["code"] = {"source": "counts", "domain": "github"}
    return whole | {"study": {"title": "Counts", "models": ["published"], "datasets": ["code"]}}


def test_a_study_of_published_counts():
    study = resolved(counts())
    assert study.of_counts and not resolved(config()).of_counts
    assert study.studied_checkpoint("published") == "v1"
    assert study.local_paths() == {"models.published.files[0]": "a.csv", "models.published.files[1]": "b.csv"}


@pytest.mark.parametrize(
    ("catalogue", "name", "sentence"),
    [
        ("models", "demo", "models.published has `source: counts` and models.demo `source: demo`: select only"),
        ("datasets", "c4", "models.published has `source: counts` and datasets.c4 `source: hub`: select only"),
    ],
)
def test_published_counts_are_studied_by_themselves(catalogue, name, sentence):
    whole = counts()
    whole["study"][catalogue].append(name)
    with pytest.raises(Problem, match=re.escape(f"config: study: {sentence}")):
        resolved(whole)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": "0-3"}, "models.published.layers: published counts are studied whole: remove it."),
        (
            {"experts_per_token": 9},
            "models.published.experts_per_token: 9 is more than experts_per_layer (8): lower it.",
        ),
        ({"experts_per_layer": 1}, "models.published.experts_per_layer: 1 is not allowed: write a whole number of at"),
        ({"checkpoints": ["v1"]}, "models.published: the key 'checkpoints' does not go with `source: counts`: remove"),
    ],
    ids=str,
)
def test_wrong_settings_of_published_counts(changes, sentence):
    with pytest.raises(Problem, match=re.escape(f"config: {sentence}")):
        resolved(counts(**changes))


def traces(**changes) -> dict:
    """The config of a study of routing traces, with changes to its model."""
    whole = config()
    facts = {"trace_layers": "2-9", "experts_per_layer": 8, "experts_per_token": 2}
    whole["models"]["served"] = {"source": "traces", "id": "a/b", "revision": "v1"} | facts | changes
    whole["models"]["served"] = {key: value for key, value in whole["models"]["served"].items() if value is not DELETE}
    whole["datasets"]["chat"] = {"source": "traces", "traces": ["t/{checkpoint}/{model}.npz", "more"]}
    return whole | {"study": {"title": "Traces", "models": ["served"], "datasets": ["chat"], "tasks": [], "probes": []}}


def test_a_study_of_traces_says_where_they_are_and_what_they_lack():
    study = resolved(traces(tokenizer={"path": "tok"}))
    assert study.of_traces and not study.of_counts and not resolved(config()).of_traces
    files = {"datasets.chat.traces[0] (v1)": "t/v1/served.npz", "datasets.chat.traces[1] (v1)": "more"}
    assert study.local_paths() == {"models.served.tokenizer.path": "tok"} | files
    lacks = study.missing("served")
    assert {"order", "weights", "scores", "logits", "sample", "model", "tasks", "training"} <= lacks.keys()
    assert not {"selections", "tokens", "documents", "clusters", "text"} & lacks.keys()
    assert lacks["order"] == "the traces hold experts in no order (models.served.holds)"
    assert "order" not in resolved(traces(holds="order")).missing("served")
    held = resolved(traces(holds="logits", router={"normalised": True})).missing("served")
    assert (
        not {"order", "weights", "scores", "logits"} & held.keys() and held["text"] == "models.served has no tokenizer"
    )
    bare = traces(tokenizer={"id": "a/b", "revision": "v1"})
    bare["datasets"]["chat"]["lacks"] = ["tokens", "documents"]
    lacks = resolved(bare).missing("served")
    assert lacks["text"] == "the traces of chat hold no token ids"
    assert lacks["clusters"] == lacks["documents"] == "the traces of chat hold no document boundaries"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trace_layers": DELETE}, "models.served.trace_layers: traces do not say it: write it, or a `path` with"),
        ({"experts_per_token": 9}, "models.served.experts_per_token: 9 is more than experts_per_layer (8): lower it."),
        ({"holds": "logits"}, "models.served.holds: of logits it is not known how the router weighs them: write"),
        ({"holds": "all"}, "models.served.holds: 'all' is not known: use one of ids"),
        ({"tokenizer": {"path": "a", "id": "b", "revision": "c"}}, "models.served.tokenizer: it has `path` and `id`"),
    ],
    ids=str,
)
def test_wrong_settings_of_traces(changes, sentence):
    with pytest.raises(Problem, match=re.escape(f"config: {sentence}")):
        resolved(traces(**changes))


def test_traces_are_studied_by_themselves_and_compared_only_with_logits():
    whole = traces()
    whole["study"]["models"].append("demo")
    with pytest.raises(Problem, match=r"models\.served has `source: traces` and models.demo `source: demo`: select"):
        resolved(whole)
    whole = traces(checkpoints=["v1", "v2"]) | {"compare": ["served/v1", "served/v2"]}
    with pytest.raises(Problem, match="config: compare: served/v1: its traces hold no router logits"):
        resolved(whole)


def test_only_what_the_study_selects_must_fit_together():
    whole = changed("datasets/other", {"source": "demo", "domain": "cpp"})
    assert list(resolved(whole).datasets) == ["python"]


# ---------------------------------------------------------------- files


FILES = {  # content, and what is said of it after the path
    "twice": (
        b"study: {}\nmodels:\n  a: 1\n  a: 2\n",
        ": line 4: the key 'a' stands in line 3 already: keep one of them.",
    ),
    "twice at the top": (b"a: 1\nb: 1\n'a': 2\n", ": line 3: the key 'a' stands in line 1 already: keep one of them."),
    "twice in one line": (b"{a: 1, a: 2}", ": line 1: the key 'a' stands in line 1 already: keep one of them."),
    "not YAML": (b"study: {title: x\nmodels: [\n", ": line 2: expected ',' or '}', but got ':': correct the YAML."),
    "a tab": (
        b"study:\n\ttitle: x\n",
        ": line 2: found character '\\t' that cannot start any token: correct the YAML.",
    ),
    "Latin-1": ("study:\n  title: é\n".encode("latin-1"), ": line 2 is not UTF-8: save the file as UTF-8."),
    "a null byte": (b"a: \0", " is not right YAML: unacceptable character #x0000: special characters are not allowed"),
    "empty": (b"", " holds no mapping of keys to values: write the config's keys and their values."),
    "a list": (b"- study\n", " holds no mapping of keys to values: write the config's keys and their values."),
    "a huge number": (b"a: " + b"9" * 5000, " is not right YAML: Exceeds the limit"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_config_is_one_sentence_with_its_line(tmp_path, case):
    content, sentence = FILES[case]
    path = tmp_path / "overlay.yaml"
    path.write_bytes(content)
    with pytest.raises(Problem) as raised:
        configuration.read(path)
    assert str(raised.value).startswith(f"{path}{sentence}") and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(Problem, match=r"gone\.yaml cannot be read \(No such file or directory\): name a config file"):
        configuration.read(tmp_path / "gone.yaml")
    with pytest.raises(Problem, match=r"cannot be read \(Is a directory\): name a config file"):
        configuration.read(tmp_path)


def test_a_right_file_is_read_as_yaml_has_it(tmp_path):
    path = tmp_path / "overlay.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\nlist: [{a: 1}, {a: 2}]\n", encoding="utf-8")
    assert configuration.read(path) == {
        "base": {"a": 1, "b": 2},
        "more": {"a": 1, "b": 3},
        "list": [{"a": 1}, {"a": 2}],
    }


def test_what_a_checked_config_is_is_told_in_a_few_lines():
    whole = changed("study/datasets", ["python", "gsm8k"])
    whole["chapters"] = ["router_decisiveness", "selection_frequency", "compare"]
    complete = configuration.check(whole, SCHEMA)
    assert check_config.summary(complete, catalogues.resolve(complete, CHAPTERS)).splitlines() == [
        "Study:    A study",
        "Models:   demo (step0, step600)",
        "Datasets: python, gsm8k",
        "Chapters: router_decisiveness, selection_frequency, compare",
        "Compared: demo/step0, demo/step600",
    ]


def test_the_config_is_checked_from_the_command_line(tmp_path, capsys):
    path = tmp_path / "overlay.yaml"
    path.write_text("study: {title: Mine, models: [demo], datasets: [python]}\n", encoding="utf-8")
    check_config.main([str(path)])
    assert capsys.readouterr().out.startswith("Study:    Mine\nModels:   demo (step0, step400)\nDatasets: python\n")
    path.write_text("study: {title: Mine, models: [demo], datasets: [pyton]}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^Error: config: study\.datasets: 'pyton' is not in the catalogue"):
        check_config.main([str(path)])
    with pytest.raises(SystemExit, match=r"^Error: .*gone\.yaml cannot be read"):
        check_config.main([str(tmp_path / "gone.yaml")])
