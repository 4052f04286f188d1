"""The tiny study with one of its datasets in shards, and records that are deleted: the same study, in less room."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

pytestmark = pytest.mark.long

OF_SELECTIONS = [
    "domain_specialization",
    "vocabulary_specialization",
    "transitions",
    "token_overlap",
    "coactivation",
]
OF_LOGITS = ["router_decisiveness", "selection_frequency", "similarity"]
"""Chapters that read tallies, tokens and samples in each of their ways."""
MADE_AGAIN = [
    *(
        "routing",
        "tallies",
        "metrics",
        "draws",
        "tables",
        "figures",
        "experts",
        "browser",
        "report",
        "ro-crate-metadata.json",
    ),
    *("extract_routing", "tally_routing", "measure_*", "plot_*", "profile_experts", "build_*", "*provenance.json"),
]


@pytest.fixture(scope="module")
def sharded(tiny_study, tiny_config, new_workflow):
    """The tiny study's last checkpoint, with `stories` in three shards and without records; the tokens are the same.

    `shards`: one layer of each shard, read before the study deleted them.
    """
    study = new_workflow("shards")
    made_again = shutil.ignore_patterns(*MADE_AGAIN)
    shutil.copytree(tiny_study.folder, study.folder, symlinks=True, dirs_exist_ok=True, ignore=made_again)
    changed = {"datasets": {"stories": {"shards": 3}}, "storage": {"keep_records": False}}
    changed |= {"models": {"demo": {"checkpoints": ["step20"], "untrained": "step20"}}, "compare": []}
    changed |= {"chapters": [*OF_SELECTIONS, *OF_LOGITS]}
    configs = [tiny_config, study.overlay("shards.yaml", changed)]
    folders = [f"results/routing/demo/step20/stories.shard_{number}_of_3" for number in (1, 2, 3)]
    study.finish("--cores", "2", *folders, configs=configs)
    shards = [xr.load_dataset(study.folder / folder / "layer_1.nc") for folder in folders]
    done = study.finish("--cores", "2", configs=configs)
    assert "tokenize_dataset" not in done.stderr and "train_model" not in done.stderr
    return SimpleNamespace(
        folder=study.folder, shards=shards, run=lambda *arguments: study.finish(*arguments, configs=configs)
    )


def both(tiny_study, sharded, path: str) -> list[xr.Dataset]:
    return [xr.load_dataset(study.folder / "results" / path) for study in (tiny_study, sharded)]


def test_shards_have_every_token_once(tiny_study, sharded):
    whole = xr.load_dataset(tiny_study.folder / "results/routing/demo/step20/stories/layer_1.nc")
    selected = np.concatenate([shard["selected_expert"] for shard in sharded.shards])
    np.testing.assert_array_equal(selected, whole["selected_expert"])
    first = np.cumsum([0, *(shard.sizes["token"] for shard in sharded.shards[:2])])
    assert [shard.attrs["first_token"] for shard in sharded.shards] == first.tolist()


def test_records_are_deleted_and_nothing_is_to_be_done(sharded):
    assert not list((sharded.folder / "results/routing").rglob("*.nc"))
    again = sharded.run("--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_study_without_records_is_intact_and_accounts_for_its_extractions(sharded):
    assert "are what was written" in sharded.run("--cores", "1", "verify").stderr
    account, crate = (
        json.loads((sharded.folder / "results" / name).read_text())
        for name in ("provenance.json", "ro-crate-metadata.json")
    )
    extracted = [job["wildcards"] for job in account["jobs"] if job["rule"] == "extract_routing"]
    parts = {"unicode", "arithmetic", *(f"stories.shard_{number}_of_3" for number in (1, 2, 3))}
    assert len(extracted) == len(parts) and {job["part"] for job in extracted} == parts
    files = [entity["@id"] for entity in crate["@graph"] if entity["@type"] == "File"]
    assert files and not any(name.startswith("routing/") for name in files)


def test_the_report_has_a_page_of_each_chapter(sharded):
    pages = {path.stem for path in (sharded.folder / "results/report").glob("*.html")}
    assert pages >= {*OF_SELECTIONS, *OF_LOGITS, "index"} and "logit_lens" not in pages


@pytest.mark.parametrize("chapter", OF_SELECTIONS)
def test_what_rests_on_selected_experts_is_the_same_bit_for_bit(tiny_study, sharded, chapter):
    xr.testing.assert_equal(*both(tiny_study, sharded, f"metrics/demo/step20/{chapter}.nc"))


@pytest.mark.parametrize("chapter", OF_LOGITS)
def test_what_rests_on_logits_differs_as_little_as_they_do_between_batches(tiny_study, sharded, chapter):
    whole, found = both(tiny_study, sharded, f"metrics/demo/step20/{chapter}.nc")
    xr.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6)


def test_the_expert_browser_is_the_same(tiny_study, sharded):
    folders = [study.folder / "results/browser/demo/step20" for study in (tiny_study, sharded)]
    found = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.js*")} for folder in folders]
    differing = {path.name for path in found[0].keys() | found[1].keys() if found[0][path] != found[1][path]}
    assert differing <= {"page.json", "provenance.json"}
