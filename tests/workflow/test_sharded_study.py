"""The tiny study with one of its datasets in shards: the same study."""

import shutil

import numpy as np
import pytest
import xarray as xr

OF_SELECTIONS = ["domain_specialization", "vocabulary_specialization", "token_overlap", "coactivation"]
OF_LOGITS = ["router_decisiveness", "selection_frequency", "similarity", "maps"]
CHAOTIC = ["map", "mean_map", "trustworthiness"]
"""What a rounding error moves anywhere: UMAP and t-SNE."""


@pytest.fixture(scope="module")
def sharded(tiny_study, tiny_config, new_workflow):
    """The tiny study with `stories` in three shards, up to its metrics; tokens and models are those of the tiny one."""
    study = new_workflow("shards")
    made_again = shutil.ignore_patterns("metrics", "browser", "experts")
    shutil.copytree(tiny_study.folder, study.folder, dirs_exist_ok=True, ignore=made_again)
    overlay = study.overlay("shards.yaml", {"datasets": {"stories": {"shards": 3}}})
    targets = [f"results/metrics/demo/step20/{chapter}.nc" for chapter in OF_SELECTIONS + OF_LOGITS]
    targets += ["results/browser/demo/step20", "results/experts/demo/step20"]
    done = study.finish("--cores", "2", *targets, configs=[tiny_config, overlay])
    assert "tokenize_dataset" not in done.stderr and "train_model" not in done.stderr
    return study


def both(tiny_study, sharded, path: str) -> list[xr.Dataset]:
    return [xr.load_dataset(study.folder / "results" / path) for study in (tiny_study, sharded)]


def test_shards_have_every_token_once(tiny_study, sharded):
    folder = sharded.folder / "results/routing/demo/step20"
    shards = [xr.load_dataset(folder / f"stories.shard_{number}_of_3/layer_1.nc") for number in (1, 2, 3)]
    whole = xr.load_dataset(tiny_study.folder / "results/routing/demo/step20/stories/layer_1.nc")
    selected = np.concatenate([shard["selected_expert"] for shard in shards])
    np.testing.assert_array_equal(selected, whole["selected_expert"])
    first = np.cumsum([0, *(shard.sizes["token"] for shard in shards[:2])])
    assert [shard.attrs["first_token"] for shard in shards] == first.tolist()


@pytest.mark.parametrize("chapter", OF_SELECTIONS)
def test_what_rests_on_selected_experts_is_the_same_bit_for_bit(tiny_study, sharded, chapter):
    xr.testing.assert_equal(*both(tiny_study, sharded, f"metrics/demo/step20/{chapter}.nc"))


@pytest.mark.parametrize("chapter", OF_LOGITS)
def test_what_rests_on_logits_differs_as_little_as_they_do_between_batches(tiny_study, sharded, chapter):
    whole, found = both(tiny_study, sharded, f"metrics/demo/step20/{chapter}.nc")
    left_out = [name for name in CHAOTIC if name in whole]
    xr.testing.assert_allclose(found.drop_vars(left_out), whole.drop_vars(left_out), rtol=1e-6, atol=1e-6)


def test_pages_about_the_model_are_the_same_files(tiny_study, sharded):
    for name in ("browser", "experts"):
        folders = [study.folder / "results" / name / "demo/step20" for study in (tiny_study, sharded)]
        found = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.js*")} for folder in folders]
        differing = {path.name for path in found[0].keys() | found[1].keys() if found[0][path] != found[1][path]}
        assert differing <= {"page.json", "provenance.json"}
