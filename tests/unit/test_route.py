"""The routing of a prompt, or of a token of the study: the same bits as in the records, and a page that says them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from gatebook.files import netcdf
from gatebook.inputs import catalogues
from gatebook.inputs.catalogues import Selected, Study
from gatebook.problem import Problem
from gatebook.report import by_hand, route
from gatebook.routing import rule
from gatebook.routing.following import complete

TEXT = "Łucja sold 3 eggs for 2 dollars;\n  how much did Łucja get? Łucja got 6 dollars."
LOADING = {"dtype": "auto", "attention": "auto", "experts": "auto", "gpus": 1, "trust_remote_code": False}
WINDOW = 8
LAYERS = (0, 1, 2, 3)


def chosen(folder, **settings) -> by_hand.Chosen:
    """A model in a folder with a dataset `texts`, as a study has them."""
    model = {"source": "local", "path": str(folder), "layers": "all", "device": "cpu", "window": 64} | LOADING
    model = catalogues.MODELS["local"].resolve("tiny", model | settings, {})
    config = {
        "extraction": {"records": "exact", "tokens_per_batch": {"cpu": 4096, "cuda": "auto"}, "threads": 1},
        "storage": {"keep_records": True},
    }
    models, datasets = Selected("models", {"tiny": model}), Selected("datasets", {"texts": {}})
    study = Study(models, datasets, {"texts": 1}, [], config["extraction"], tasks={})
    return by_hand.Chosen("tiny", "local", study, config)


@pytest.fixture
def study(model_folder, run_script, tmp_path, monkeypatch):
    """Make the tokens and the records of a text, the only one of a dataset, at the paths of a study."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")

    def extracted(window: int, records: str) -> by_hand.Chosen:
        tokens, folder = "results/inputs/tiny/texts.nc", "results/routing/tiny/local/texts"
        Path(tokens).parent.mkdir(parents=True)
        Path(folder).parent.mkdir(parents=True)
        picked = chosen(model_folder, window=window)
        dataset = {"source": "files", "template": "{text}", "sample_by": "line", "limits": {}, "cluster": []}
        model = picked.settings | {"tokens_per_dataset": "all"}
        extraction = picked.config["extraction"] | {"records": records, "predictions": False}
        extraction["sample"] = {"size": 0, "seed": 0}
        place = {"shard": 1, "shards": 1}
        for name, given, output, params in (
            (
                "tokenize_dataset",
                {"tokenizer": model_folder, "files": ["rows.jsonl"]},
                {"tokens": tokens},
                {"dataset": dataset | {"files": ["rows.jsonl"]}},
            ),
            ("describe_model", {"folder": model_folder}, {"description": "model.json"}, {"predictions": False}),
            (
                "extract_routing",
                {"folder": model_folder, "description": "model.json", "tokens": tokens},
                {"records": folder},
                {"extraction": extraction, "place": place},
            ),
        ):
            wildcards = {"model": "tiny", "checkpoint": "local", "dataset": "texts", "part": "texts"}
            params = {"code": "c0de", "model": model} | params
            run_script(name, tmp_path, input=given, output=output, params=params, wildcards=wildcards)
        return picked

    return extracted


def test_a_prompt_has_the_bits_that_extraction_writes_for_the_same_tokens(study):
    picked = study(64, "exact")
    found = route.of_prompt(picked, TEXT, {})
    assert found["place"].values.tolist() == list(range(found.sizes["token"]))
    tokens = netcdf.load("results/inputs/tiny/texts.nc")
    np.testing.assert_array_equal(found["token_id"], tokens["token_id"])
    for layer in LAYERS:
        record = netcdf.load(f"results/routing/tiny/local/texts/layer_{layer}.nc")
        one = found.sel(layer=layer)
        for name, array in record.items():
            assert one[name].values.tobytes() == array.values.tobytes(), (layer, name)
        follows = rule.routing_rule_of(record.attrs)
        whole = complete({name: array.values for name, array in record.items()}, follows)
        assert one["routing_weight"].values.tobytes() == whole["routing_weight"].tobytes()


def test_a_token_of_the_study_is_shown_in_its_window_with_the_bits_of_its_records(study):
    picked = study(WINDOW, "exact")
    tokens = netcdf.load("results/inputs/tiny/texts.nc")
    starts = np.append(np.flatnonzero(tokens["position"].values == 0), tokens.sizes["token"])
    assert len(starts) > 3
    for token in (0, int(starts[1]) - 1, int(starts[1]), tokens.sizes["token"] - 1):
        found = route.of_document(picked, {"dataset": "texts", "document": "0", "token": token})
        window = int(np.searchsorted(starts, token, side="right"))
        assert found["place"].values.tolist() == list(range(starts[window - 1], starts[window]))
        here = slice(starts[window - 1], starts[window])
        assert found["position"].values.tolist() == list(range(found.sizes["token"]))
        for layer in LAYERS:
            record = netcdf.load(f"results/routing/tiny/local/texts/layer_{layer}.nc")
            for name, array in record.items():
                assert found[name].sel(layer=layer).values.tobytes() == array[here].values.tobytes()


def test_the_numbers_of_a_token_are_a_distribution_and_the_selected_have_ranks(model_folder):
    found = route.of_prompt(chosen(model_folder), TEXT, {})
    shown, whole = route.of_token(found, 5), route.table(found)
    assert len(shown) == len(LAYERS) * 8 and len(whole) == found.sizes["token"] * len(LAYERS) * 3
    np.testing.assert_allclose(shown.groupby("layer")["probability"].sum(), 1, rtol=1e-6)
    for layer in LAYERS:
        one = shown[shown["layer"] == layer]
        largest = one.sort_values("probability", ascending=False)["expert"].head(3).tolist()
        assert one.dropna().sort_values("rank")["expert"].tolist() == largest
        assert largest == found["selected_expert"].sel(layer=layer)[5].values.tolist()
        logits = found["router_logits"].sel(layer=layer)[5].values
        np.testing.assert_array_equal(one["logit"], logits)
        np.testing.assert_allclose(one["probability"], np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
        mine = whole[(whole["token"] == 5) & (whole["layer"] == layer)]
        assert mine["expert"].tolist() == largest and mine["rank"].tolist() == [1, 2, 3]
        np.testing.assert_array_equal(mine["weight"], found["routing_weight"].sel(layer=layer)[5])
        np.testing.assert_array_equal(mine["probability"], one.set_index("expert")["probability"][largest])


@pytest.mark.slow
def test_the_page_needs_no_other_file_and_the_numbers_say_the_same(model_folder, tmp_path):
    found = route.of_prompt(chosen(model_folder), TEXT + "</p><script>alert(1)</script>", {})
    token = int(found["place"].values[-1])
    target = tmp_path / "prompts" / "one"
    of = {"model": "tiny, local", "command": "python -m gatebook.report.route", "prompt": TEXT}
    route.write(target, found, token, of)
    names = {f"{route.FIGURE}.{kind}" for kind in ("svg", "pdf", "png", "csv")}
    assert {path.name for path in target.iterdir()} == names | {f"routing.{kind}" for kind in ("csv", "json", "nc")} | {
        "index.html"
    }
    page = (target / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;" in page and "Łucja" in page
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page) == [
        *(f"{route.FIGURE}.{kind}" for kind in ("pdf", "png", "csv")),
        *(f"routing.{kind}" for kind in ("json", "csv", "nc")),
    ]
    cells = re.findall(r'<td title="expert (\d+) [\d.]+, [^"]*"[^>]*>(\d+)</td>', page)
    first = found["selected_expert"].isel(rank=0).transpose("token", "layer").values.ravel()
    assert [(int(a), int(b)) for a, b in cells] == [(e, e) for e in first.tolist()]
    for layer in LAYERS:
        assert f"<h3>Layer {layer}</h3>" in page

    written = json.loads((target / "routing.json").read_text(encoding="utf-8"))
    assert (written["token"], written["prompt"], written["routing_rule"]["experts"]) == (token, TEXT, 8)
    kept = xr.load_dataset(target / "routing.nc")
    assert kept["router_logits"].values.tobytes() == found["router_logits"].values.tobytes()
    frame = pd.read_csv(target / "routing.csv")
    for place in (0, token):
        for layer in LAYERS:
            experts = found["selected_expert"].sel(layer=layer)[place].values.tolist()
            said = written["tokens"][place]["layers"][layer]
            assert said["experts"] == experts
            assert (
                np.float32(said["weights"]).tobytes()
                == found["routing_weight"].sel(layer=layer)[place].values.tobytes()
            )
            assert frame[(frame["token"] == place) & (frame["layer"] == layer)]["expert"].tolist() == experts
    assert "<svg" in (target / f"{route.FIGURE}.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_same_prompt_gives_the_same_bytes(model_folder, tmp_path):
    found = route.of_prompt(chosen(model_folder), "Janet sold 3 eggs", {})
    for name in ("one", "other"):
        route.write(tmp_path / name, found, 1, {"model": "m", "command": "c", "prompt": "p"})
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_the_most_frequent_first_choices_have_colours_and_of_equal_ones_the_smaller():
    assert route.colours([5, 1, 1, 9, 5, 5, 2]) == {5: 0, 1: 1, 2: 2, 9: 3}
    assert list(route.colours(range(20))) == [0, 1, 2, 3, 4, 5]


def test_spaces_and_line_breaks_of_a_token():
    assert [route._with_spaces(text) for text in ("  a b ", "   ", "x")] == [(2, "a b", 1), (3, "", 0), (0, "x", 0)]
    assert route.LINE_END.sub(r"\1\n", r"\n\n") == "\\n\n\\n\n"
    assert route.LINE_END.sub(r"\1\n", r"\\n") == r"\\n"


def documents() -> xr.Dataset:
    """Two documents of 3 and 5 tokens, the second in windows of 3 and 2."""
    return xr.Dataset(
        {"position": ("token", [0, 1, 2, 0, 1, 2, 0, 1]), "document_tokens": ("document", [3, 5])},
        coords={"document_id": ("document", ["a", "b"])},
    )


def test_the_window_of_a_token():
    assert route.window_of(documents(), "d", "a", 2) == (slice(0, 3), 0)
    assert route.window_of(documents(), "d", "b", 2) == (slice(3, 6), 0)
    assert route.window_of(documents(), "d", "b", 3) == (slice(6, 8), 3)


@pytest.mark.parametrize(
    ("document", "token", "sentence"),
    [
        ("c", 0, "--document: d has no document 'c': its 2 are 'a' to 'b'."),
        ("b", 5, "--token: document 'b' of d has no token 5: write a number from 0 to 4."),
        ("b", -1, "--token: document 'b' of d has no token -1: write a number from 0 to 4."),
    ],
)
def test_a_document_or_token_that_is_not_there(document, token, sentence):
    with pytest.raises(Problem, match=f"^{re.escape(sentence)}$"):
        route.window_of(documents(), "d", document, token)


def test_what_a_prompt_cannot_be(model_folder, tmp_path):
    nothing = dict.fromkeys(("prompt", "file"))
    with pytest.raises(Problem, match=r"^--prompt is empty: write a text\.$"):
        route._text(nothing | {"prompt": ""})
    (tmp_path / "prompt.txt").write_text("two\nlines\n")
    assert route._text(nothing | {"file": tmp_path / "prompt.txt"}) == "two\nlines"
    (tmp_path / "prompt.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(Problem, match=r"prompt\.txt cannot be read \(it is not UTF-8\): name a text file\."):
        route._text(nothing | {"file": tmp_path / "prompt.txt"})
    with pytest.raises(Problem, match=r"cannot be read \(No such file or directory\)"):
        route._text(nothing | {"file": tmp_path / "nothing.txt"})
    with pytest.raises(
        Problem, match=r"^the prompt has 9 tokens, and the model sees 8 at once \(models\.tiny\.window\)"
    ):
        route.of_prompt(chosen(model_folder, window=WINDOW), "!" * 9, {})
    found = route.of_prompt(chosen(model_folder, window=WINDOW), "!" * 8, {})
    assert route._token(found, None) == 7 and route._token(found, 0) == 0
    with pytest.raises(Problem, match=r"^--token: there is no token 8: write a number from 0 to 7\.$"):
        route._token(found, 8)


def test_records_that_are_not_there_or_hold_no_logits(study, model_folder):
    given = {"dataset": "texts", "document": "0", "token": 0}
    with pytest.raises(Problem, match=r"texts\.nc does not exist: make it by snakemake --cores 2 results/inputs/"):
        route.of_document(chosen(model_folder), given)
    with pytest.raises(Problem, match=r"^--dataset: 'other' is not in the study: use one of texts\.$"):
        route.of_document(chosen(model_folder), given | {"dataset": "other"})
    picked = study(WINDOW, "compact")
    with pytest.raises(Problem, match=r"holds no router logits \(extraction\.records: compact\): set it to exact"):
        route.of_document(picked, given)
    Path("results/routing/tiny/local/texts").rename("gone")
    picked.config["storage"]["keep_records"] = False
    with pytest.raises(Problem, match=r"local/texts does not exist: set storage\.keep_records: true, or give"):
        route.of_document(picked, given)


def test_only_what_is_missing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    asked = []

    class Done:
        returncode = 0

    monkeypatch.setattr(by_hand.subprocess, "run", lambda command: asked.append(command) or Done)
    by_hand.make(("there",), {"directory": ".", "configfile": []})
    assert not asked
    by_hand.make(("there", "results/demo/tokenizer"), {"directory": ".", "configfile": ["mine.yaml"]})
    ((_, *words),) = asked
    assert words[:3] == ["-m", "snakemake", "results/demo/tokenizer"]
    assert words[-5:] == ["--configfile", "mine.yaml", "--cores", "all", "--rerun-incomplete"]
    Done.returncode = 3
    with pytest.raises(SystemExit) as stop:
        by_hand.make(("gone",), {"directory": ".", "configfile": []})
    assert stop.value.code == 3


def test_the_command_says_what_was_given():
    given = {"prompt": "a 'b'", "dataset": None, "token": 0, "directory": ".", "configfile": ["x.yaml", "y.yaml"]}
    assert by_hand.command("python -m m", given) == (
        "python -m m --prompt 'a '\"'\"'b'\"'\"'' --token 0 --configfile x.yaml y.yaml"
    )
