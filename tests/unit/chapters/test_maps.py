"""The maps and what the pictures rest on: neighbours with the same label, variance on two axes, trustworthiness."""

import itertools
import json
from functools import partial

import numpy as np
import page_cases
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from gatebook.chapters.base.page import Seen
from gatebook.chapters.maps import contexts, page
from gatebook.chapters.maps import measure as maps
from gatebook.files import netcdf
from gatebook.inputs.clusters import GROUPS, groups
from gatebook.measures import uncertainty
from gatebook.problem import Problem
from gatebook.routing import extraction, models
from gatebook.routing.families import routing_rule
from gatebook.study import samples

seen = partial(page_cases.seen, "maps")

HIDDEN = 5


def made_sample(document, dataset, group=None, token_id=None) -> xr.Dataset:
    """A sample of tokens with the given documents (numbers) and datasets (names)."""
    document = np.asarray(document)
    group = document % GROUPS if group is None else group
    arrays = {
        "dataset": np.array(dataset, dtype=object),
        "document": document,
        "cluster": document,
        "group": np.asarray(group, dtype=np.int8),
        "token_id": np.zeros(len(document), dtype=np.int32) if token_id is None else token_id,
    }
    arrays |= {name: np.full(len(document), name, dtype=object) for name in ("before", "text", "after")}
    return xr.Dataset({name: ("sample", values) for name, values in arrays.items()})


def made_layer(rng, sample: xr.Dataset, number: int = 0, experts: int = 4, apart: float = 0.0) -> maps.Layer:
    """Normal states, moved `apart` times a random vector of their dataset, and outputs that depend on the expert."""
    names = sample["dataset"].values
    centres = {name: apart * rng.standard_normal(HIDDEN) for name in dict.fromkeys(names)}
    states = rng.standard_normal((len(names), HIDDEN)) + np.array([centres[name] for name in names])
    first = rng.integers(0, experts, len(names))
    means = 20 * rng.standard_normal((experts, HIDDEN))
    outputs = states + means[first]
    return maps.Layer(number, *(a.astype(t) for a, t in ((states, "f4"), (first, int), (outputs, "f4"), (means, "f4"))))


def tokens_of(rng, tokens: int = 60, datasets: int = 3) -> xr.Dataset:
    """A sample of documents of three tokens each."""
    document = np.arange(tokens) // 3
    names = np.array([f"set {index}" for index in range(datasets)])
    return made_sample(document, names[document % datasets], token_id=rng.integers(0, 5, tokens))


# ---------------------------------------------------------------- neighbours


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(2, 30), documents=st.integers(1, 12))
def test_neighbours_equal_a_loop_over_tokens(seed, tokens, documents):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((tokens, 3)).astype(np.float32)
    document, token_id = rng.integers(0, documents, tokens), rng.integers(0, 9, tokens)
    group = rng.integers(0, GROUPS, documents)[document]
    labels = rng.integers(0, 3, (2, tokens))
    matching, found = maps.neighbour_counts(points, np.array([document, token_id]), group, labels, neighbours=4)
    assert matching.shape == (1 + GROUPS, tokens, 2) and found.shape == (1 + GROUPS, tokens)
    for draw, token in itertools.product(range(1 + GROUPS), range(tokens)):
        others = [
            i
            for i in range(tokens)
            if document[i] != document[token] and token_id[i] != token_id[token] and group[i] != draw - 1
        ]
        distance = ((points.astype(float) - points[token]) ** 2).sum(axis=1)
        nearest = sorted(others, key=distance.__getitem__)[:4] if group[token] != draw - 1 else []
        assert found[draw, token] == len(nearest)
        assert matching[draw, token].tolist() == [int((row[nearest] == row[token]).sum()) for row in labels]


def test_neighbours_by_hand():
    # On a line at 0, 1, 3, 7; the first two are of one document, so that the nearest to both is the third.
    points, document = np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0, 0, 1, 2])
    labels = np.array([[5, 5, 5, 6]])
    matching, found = maps.neighbour_counts(points, document[None], np.array([0, 0, 1, 2]), labels, neighbours=1)
    assert matching[0, :, 0].tolist() == [1, 1, 1, 0] and found[0].tolist() == [1, 1, 1, 1]
    # Without the third: the nearest to the first two is the last, which has another label.
    assert matching[2, :, 0].tolist() == [0, 0, 0, 0] and found[2].tolist() == [1, 1, 0, 1]


def test_random_tokens_by_hand():
    # Documents {a, a}, {a, b}, {b}: the first token sees one a among three tokens of other documents.
    document, label = np.array([7, 7, 3, 3, 9]), np.array(["a", "a", "a", "b", "b"])
    np.testing.assert_allclose(maps.random_share(document[None], label), [1 / 3, 1 / 3, 2 / 3, 1 / 3, 1 / 4])
    # With ids 1, 2, 1, 2, 2 the first token sees the last two, the second the third one, which has id 1, alone.
    apart = np.array([document, [1, 2, 1, 2, 2]])
    np.testing.assert_allclose(maps.random_share(apart, label), [0, 1, 1 / 2, 0, 0])
    assert np.isnan(maps.random_share(np.zeros((1, 3), int), np.arange(3))).all()


@pytest.mark.slow
def test_random_tokens_are_the_mean_over_all_permutations_of_the_labels():
    rng = np.random.default_rng(3)
    points, labels, document = rng.standard_normal((6, 2)), np.array([0, 0, 0, 1, 1, 2]), np.arange(6)
    counts = [
        maps.neighbour_counts(points, document[None], document, np.array([permuted]), neighbours=2)[0][0].sum() / 12
        for permuted in itertools.permutations(labels)
    ]
    assert np.mean(counts) == pytest.approx(maps.random_share(document[None], labels).mean())


@pytest.mark.slow
def test_intervals_of_agreement_cover_the_truth():
    rng = np.random.default_rng(5)
    estimates, covered = [], []
    for _ in range(400):
        document = np.arange(120) // 2
        sample = made_sample(document, np.array(["a", "b", "c"])[document % 3])
        topic = np.repeat(rng.standard_normal((60, HIDDEN)), 2, axis=0)
        points = (1.2 * np.eye(3, HIDDEN)[document % 3] + topic + rng.standard_normal((120, HIDDEN))).astype("f4")
        labels = (document % 3)[None]
        matching, found = maps.neighbour_counts(points, document[None], sample["group"].values, labels)
        draws = xr.DataArray(matching.sum(axis=(1, 2)) / found.sum(axis=1), dims="draw")
        value, low, high = uncertainty.jackknife(draws).values
        estimates.append(value)
        covered.append((low, high))
    truth = np.mean(estimates)
    inside = [low <= truth <= high for low, high in covered]
    assert truth > 0.4  # well above the third of random tokens
    assert 0.92 <= np.mean(inside) <= 0.985


# ---------------------------------------------------------------- variance


def test_variance_on_two_components():
    corners = np.array(list(itertools.product([-1, 1], repeat=4)))
    assert maps.plane_variance(corners * [3, 2, 1, 1]) == pytest.approx((9 + 4) / (9 + 4 + 1 + 1))
    assert maps.plane_variance(100 + corners) == pytest.approx(2 / 4)
    points = np.random.default_rng(0).standard_normal((30, 50)).astype(np.float32)
    values = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) ** 2
    assert maps.plane_variance(points) == pytest.approx(values[:2].sum() / values.sum(), rel=1e-5)
    assert np.isnan(maps.plane_variance(np.ones((5, 5)))) and np.isnan(maps.plane_variance(points[:2]))


# ---------------------------------------------------------------- the whole chapter


@pytest.fixture(scope="module")
def metrics():
    """Two layers: in the first one datasets lie apart, in the second one they do not."""
    rng = np.random.default_rng(1)
    sample = tokens_of(rng)
    layers = [made_layer(rng, sample, 1, apart=8.0), made_layer(rng, sample, 4)]
    return maps.measure(sample, layers, points=50, seed=1, confidence=0.95).metrics


def test_labels_that_lie_apart_are_told_from_labels_that_do_not(metrics):
    agreement = metrics["agreement"].sel(dataset="pooled")
    null = metrics["null_agreement"].sel(dataset="pooled", label="dataset")
    # 42 tokens see 18 of their dataset among 57 of other documents, and 18 tokens see 15.
    np.testing.assert_allclose(null, (42 * 18 + 18 * 15) / 60 / 57, rtol=1e-12)
    inputs = agreement.sel(space="router input", label="dataset")
    assert inputs.sel(layer=1, interval="low") > 0.9
    assert inputs.sel(layer=4, interval="low") < null[1] < inputs.sel(layer=4, interval="high")
    separation = metrics["separation"].sel(dataset="pooled")
    assert (separation.sel(interval="low") > 0.4).all()
    outputs = agreement.sel(space="expert output", label="first expert", interval="estimate")
    inputs = agreement.sel(space="router input", label="first expert", interval="estimate")
    np.testing.assert_allclose(separation.sel(interval="estimate"), outputs - inputs, rtol=1e-12)


def test_pooled_is_the_mean_over_datasets_of_equal_size():
    rng = np.random.default_rng(2)
    sample = tokens_of(rng, 63)
    agreement, null = maps._agreements(sample, made_layer(rng, sample, apart=2.0))
    assert agreement["dataset"].values.tolist() == ["pooled", "set 0", "set 1", "set 2"]
    whole = agreement.isel(draw=0)
    xr.testing.assert_allclose(whole.isel(dataset=0, drop=True), whole.isel(dataset=slice(1, None)).mean("dataset"))
    xr.testing.assert_allclose(null.isel(dataset=0, drop=True), null.isel(dataset=slice(1, None)).mean("dataset"))


def test_renamed_experts_change_no_number():
    rng = np.random.default_rng(4)
    sample = tokens_of(rng)
    layer = made_layer(rng, sample)
    renamed = maps.Layer(0, layer.states, np.array([2, 0, 3, 1])[layer.first], layer.outputs, layer.mean_outputs)
    for one, other in zip(maps._agreements(sample, layer), maps._agreements(sample, renamed), strict=True):
        xr.testing.assert_identical(one, other)


def test_maps_are_where_the_points_are(metrics):
    assert dict(metrics["map"].sizes) == {"layer": 2, "space": 2, "projection": 3, "point": 50, "axis": 2}
    assert np.isfinite(metrics["map"]).all() and np.isfinite(metrics["mean_map"]).all()
    trust = metrics["trustworthiness"]
    assert ((trust > 0.5) & (trust <= 1)).all()
    # Experts are so far apart that the mean output of each lies among its own points in every map.
    for projection in maps.PROJECTIONS:
        here = metrics.sel(layer=4, space="expert output", projection=projection)
        for expert, place in enumerate(here["mean_map"].values):
            nearest = ((here["map"].values - place) ** 2).sum(axis=1).argmin()
            assert here["point_expert"].values[nearest] == expert
    spectrum = metrics["component_variance"]
    assert (spectrum.diff("component") <= 1e-6).all()
    plane = metrics["explained_variance"].sel(interval="estimate")
    np.testing.assert_allclose(spectrum[..., :2].sum("component"), plane, rtol=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_map():
    points = np.random.default_rng(6).standard_normal((60, HIDDEN)).astype(np.float32)
    first, again, other = (maps.embed(points, seed) for seed in (1, 1, 2))
    for name in ("UMAP", "t-SNE"):
        assert first[name].tobytes() == again[name].tobytes()
    assert first["UMAP"].tobytes() != other["UMAP"].tobytes()


def test_too_few_tokens_are_named():
    sample = tokens_of(np.random.default_rng(0), 39)
    with pytest.raises(Problem, match=r"extraction.sample.size: 39 sampled tokens in all are too few"):
        maps.measure(sample, [], points=50, seed=1, confidence=0.95)


# ---------------------------------------------------------------- page


def test_findings_follow_from_the_intervals(metrics):
    kind, expert, separation, plane = page.findings(seen(metrics, plane_variance=0.999))
    assert (kind.verdict, expert.verdict, separation.verdict, plane.verdict) == ("yes", "unclear", "yes", "no")
    assert "about as many as among random such tokens" in expert.answer
    assert plane.null_value == 2 / HIDDEN and (kind.effect, separation.effect) == ("large", "large")
    assert (kind.n, kind.n_unit) == (20, "clusters, 20 documents, 60 sampled tokens") and kind.reference_name is None
    low = metrics.copy(deep=True)
    for name in ("agreement", "separation", "explained_variance"):
        low[f"mean_over_layers_{name}"][...] = -1
    found = page.findings(seen(low, metrics))
    assert [one.verdict for one in found] == ["no"] * 4
    assert all(one.reference_name == "untrained model" for one in found)


def test_in_brief_inputs_lie_together_by_kind_of_text_or_nothing_shows_that_they_do(metrics):
    changed = metrics.copy(deep=True)
    names, at = changed["dataset"].values[1:].tolist(), {"space": "router input", "label": "dataset, other ids"}
    changed["null_agreement"].loc[{"label": at["label"]}] = 0.3
    mean = changed["mean_over_layers_agreement"]
    mean.loc[at | {"dataset": "pooled"}] = [0.6, 0.5, 0.7]
    for name, value, low in zip(names, (0.41, 0.5, 0.9), (0.31, 0.4, 0.2), strict=True):
        mean.loc[at | {"dataset": name}] = [value, low, 0.95]  # the last one is the highest, and may be none
    found = page.brief(seen(changed))
    assert "of the nearest ones 60 % are of the same dataset, 30 % of random ones." in found.text
    assert found.example.startswith(f"Those of {names[1]} do most surely: 50 % against 30 %")
    mean.loc[at] = [0.3, 0.1, 0.5]
    found = page.brief(seen(changed))
    assert (found.text, found.example) == ("Nothing shows that router inputs lie together by kind of text.", "")


@pytest.mark.slow
def test_figures_name_what_they_show(metrics):
    found = page.figures(Seen(metrics, metrics))
    assert len(found) == 4 and len({one.name for one in found}) == 4
    assert {one.figure for one in page.findings(seen(metrics))} <= {one.name for one in found}
    for one in found:
        assert len(one.data) and one.alt and one.caption and one.how_to_read
    assert "n = 60 sampled tokens of 20 documents of 20 clusters in 3 datasets" in found[0].caption
    expert = found[3].data.query("space == 'mean output of an expert'")
    assert len(expert) == 2 * 3 * 4  # layers, projections, experts


def test_the_table_has_every_measure(metrics):
    table = maps.table(metrics)
    means = {f"mean_over_layers_{name}" for name in ("agreement", "separation", "explained_variance")}
    assert set(table["measure"]) == set(maps.MEASURES) | means
    assert (table.query("measure == 'trustworthiness'")["dataset"] == "pooled").all()
    assert len(table.query("measure == 'agreement'")) == 2 * 4 * 2 * 5
    assert len(table.query("measure == 'mean_over_layers_agreement'")) == 2 * 4 * 5  # without the 2 layers
    assert (table["layer"].isna() == table["measure"].isin(means)).all()


# ---------------------------------------------------------------- files and the model


@pytest.fixture(scope="module")
def study(tmp_path_factory, model_folder):
    """Records and token files of two small datasets, extracted from the tiny model with 60 sampled tokens each."""
    folder = tmp_path_factory.mktemp("maps")
    model = models.load(model_folder, dtype="auto", device=torch.device("cpu"), attention="auto", experts="auto")
    for name, seed in (("poems", 1), ("code", 2)):
        rng = np.random.default_rng(seed)
        lengths, cluster = rng.integers(5, 15, 12), np.array(list("abcadefbghij"), dtype=object)
        tokens = xr.Dataset(
            {
                "token_id": ("token", rng.integers(0, 320, lengths.sum()).astype(np.int32)),
                "document_index": ("token", np.repeat(np.arange(12), lengths).astype(np.int32)),
                "document_tokens": ("document", lengths.astype(np.int32)),
            },
            coords={
                "document_id": ("document", np.array([f"{name} {index}" for index in range(12)], dtype=object)),
                "cluster": ("document", cluster),
                "group": ("document", groups(cluster)),
            },
            attrs={"dataset_sha256": f"files of {name}"},
        )
        netcdf.save(tokens, folder / f"{name}.nc")
        (folder / name).mkdir()
        identity = {"model": "tiny", "model_id": "tiny", "checkpoint": "local", "weights_sha256": "0" * 64}
        extraction.write_records(
            folder / name,
            model,
            [1, 2, 3],
            tokens["token_id"].values,
            np.cumsum(lengths) - lengths,
            tokens_per_batch=64,
            sampled=extraction.sample_tokens(lengths.sum(), 60, 3, name),
            attrs=identity
            | {"dataset": name, "tokens_sha256": name, "routing_rule": routing_rule(model.config).as_json()},
        )
    return folder


def inputs(study) -> dict[str, list[str]]:
    names = ("poems", "code")
    return {"records": [str(study / name) for name in names], "tokens": [str(study / f"{name}.nc") for name in names]}


def test_samples_are_the_tokens_that_were_drawn(study):
    sample = samples.read(**inputs(study))
    assert sample["dataset"].values.tolist() == ["poems"] * 60 + ["code"] * 60
    assert sample["layer"].values.tolist() == [1, 2, 3]
    assert json.loads(sample.attrs["datasets"]) == {"poems": "poems", "code": "code"}
    tokens, states = netcdf.load(study / "code.nc"), netcdf.load(study / "code" / "states.nc")
    places = states["sampled_token"].values
    np.testing.assert_array_equal(sample["token_id"][60:], tokens["token_id"][places])
    np.testing.assert_array_equal(sample["place"][60:], places)
    np.testing.assert_array_equal(sample["document"][60:], 12 + tokens["document_index"].values[places])
    document = tokens["document_index"].values[places]
    np.testing.assert_array_equal(sample["group"][60:], tokens["group"].values[document])
    _, cluster = np.unique(tokens["cluster"].values[document], return_inverse=True)
    _, found = np.unique(sample["cluster"].values[60:], return_inverse=True)
    np.testing.assert_array_equal(found, cluster)
    assert not set(sample["cluster"].values[:60]) & set(sample["cluster"].values[60:])
    received, selected = samples.read_layer(inputs(study)["records"], 2)
    np.testing.assert_array_equal(received[60:], states["state"].sel(layer=2))
    record = netcdf.load(study / "code" / "layer_2.nc")
    np.testing.assert_array_equal(selected[60:], record["selected_expert"].values[places])


def test_contexts_are_the_text_around_a_token_within_its_document(tokenizer, tmp_path):
    documents = {"poems": ["Janet sold 2 eggs", "for 3 dollars;\nhow much"], "code": ["Łucja got 4 dollars."]}
    paths, samples_of = [], []
    for name, texts in documents.items():
        ids = [tokenizer(text)["input_ids"] for text in texts]
        tokens = xr.Dataset(
            {
                "token_id": ("token", np.concatenate(ids).astype(np.int32)),
                "document_index": ("token", np.repeat(np.arange(len(ids)), [len(one) for one in ids]).astype(np.int32)),
            }
        )
        paths.append(str(tmp_path / f"{name}.nc"))
        netcdf.save(tokens, paths[-1])
        places = np.arange(tokens.sizes["token"])
        arrays = {"place": places, "dataset": np.full(len(places), name, dtype=object)}
        samples_of.append(xr.Dataset({key: ("sample", values) for key, values in arrays.items()}))
    sample = xr.concat(samples_of, "sample")
    found = contexts.contexts(sample, paths, tokenizer)
    place = 0
    for ids in (tokenizer(text)["input_ids"] for one in documents.values() for text in one):
        for number in range(len(ids)):
            before, after = (str(found[part].values[place]) for part in ("before", "after"))
            first, last = max(0, number - contexts.AROUND), number + 1 + contexts.AROUND
            assert before == tokenizer.decode(ids[first:number]).strip("\ufffd").replace("\n", "\\n")
            assert after == tokenizer.decode(ids[number + 1 : last]).strip("\ufffd").replace("\n", "\\n")
            place += 1
    assert place == found.sizes["sample"]
    assert found["before"].values[0] == "" and found["after"].values[-1] == ""


@pytest.mark.slow
def test_every_point_can_be_explored_with_its_text():
    rng = np.random.default_rng(3)
    sample = tokens_of(rng)
    sample["text"] = ("sample", np.array([f"token {place}" for place in range(60)], dtype=object))
    made = [made_layer(rng, sample, number) for number in (2, 5)]
    metrics = maps.measure(sample, made, points=50, seed=1, confidence=0.95).metrics
    found = page.explored(Seen(metrics))
    assert found.positions.sizes["point"] == len(found.texts["text"]) == 50
    places = [int(text.split()[1]) for text in found.texts["text"]]
    np.testing.assert_array_equal(found.categories["dataset"], sample["dataset"].values[places])
    np.testing.assert_array_equal(found.categories["first expert"].sel(layer=5), made[1].first[places])
    known = {f"{space}, {by}" for space in maps.SPACES for by in found.categories}
    assert {figure.explores for figure in page.figures(Seen(metrics))} - {""} <= known


def test_outputs_of_all_experts_are_those_of_each_expert_alone(model_folder):
    block = models.load_block(model_folder, 1, dtype="auto", device=torch.device("cpu"))
    states = np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)
    found = np.concatenate(list(models.all_expert_outputs(block, states, 8, tokens_per_batch=4)))
    for expert in range(8):
        selected = torch.full((10, 1), expert)
        alone = models.expert_outputs(block, torch.from_numpy(states), selected)[:, 0].detach().numpy()
        np.testing.assert_allclose(found[:, expert], alone, rtol=1e-5, atol=1e-7)


def run_measure(run_script, study, model_folder, folder, layers="first_middle_last"):
    folder.mkdir(exist_ok=True)
    run_script(
        "measure_maps",
        folder,
        input=inputs(study) | {"folder": str(model_folder), "tokenizer": str(model_folder), "untrained": []},
        output={"metrics": folder / "maps.nc", "draws": folder / "draws.nc", "table": folder / "maps.csv"},
        params={
            "code": "0" * 16,
            "model": {"dtype": "auto", "device": "cpu", "experts": "auto"},
            "tokenizer": {"trust_remote_code": False},
            "settings": {"layers": layers, "points": 60},
            "threads": 1,
            "statistics": {"seed": 1, "confidence": 0.95},
            "fewest_clusters": 2,
        },
    )


@pytest.mark.long
def test_the_scripts_give_the_same_bytes_twice(run_script, study, model_folder, tmp_path):
    for name in ("one", "two"):
        run_measure(run_script, study, model_folder, tmp_path / name)
    for name in ("maps.nc", "draws.nc", "maps.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    metrics = netcdf.load(tmp_path / "one" / "maps.nc")
    assert metrics["layer"].values.tolist() == [1, 2, 3] and metrics.sizes["point"] == 60
    block = models.load_block(model_folder, 3, dtype="auto", device=torch.device("cpu"))
    states, selected = samples.read_layer(inputs(study)["records"], 3)
    chosen = models.expert_outputs(block, torch.from_numpy(states), torch.from_numpy(selected[:, :1]))[:, 0]
    plane = metrics["explained_variance"].sel(layer=3, space="expert output", interval="estimate").item()
    assert plane == pytest.approx(maps.plane_variance(chosen.detach().numpy()), rel=1e-4)
    figures = tmp_path / "figures"
    run_script(
        "plot_chapter",
        tmp_path,
        input={"metrics": tmp_path / "one" / "maps.nc"},
        output={"figures": figures},
        params={"code": "0" * 16, "thresholds": seen(metrics).thresholds},
        wildcards={"chapter": "maps"},
    )
    words = json.loads((figures / "chapter.json").read_text(encoding="utf-8"))
    assert len(words["figures"]) == 4 and len(words["findings"]) == 4
    assert {path.suffix for path in figures.iterdir() if path.is_file()} == {".svg", ".pdf", ".csv", ".json"}
    assert sorted(path.name for path in (figures / "explored").iterdir()) == ["1.js", "2.js", "3.js", "index.js"]


def test_a_layer_that_was_not_studied_is_named(run_script, study, model_folder, tmp_path):
    with pytest.raises(Problem, match=r"maps.layers: layer 0 is not"):
        run_measure(run_script, study, model_folder, tmp_path, layers=[0])
