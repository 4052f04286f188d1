"""The picture of all experts, from services and token types written by hand."""

from gatebook.report import tiles

DATASETS = ["python", "cpp", "comments", "console", "algebra", "unicode", "web", "stories"]


def service(layer: int, expert: int, dataset: str, share: float, effect: str = "large", usual: float = 0.1) -> dict:
    ends = {"share": share, "low": share - 0.05, "high": share + 0.05}
    return {"layer": layer, "expert": expert, "dataset": dataset, "usual": usual, "effect": effect} | ends


def row(layer: int, expert: int, low: float | None, kind: str = "number") -> dict:
    share = {"estimate": 0.5, "low": low, "high": 0.6}
    return {"layer": layer, "expert": expert, "types": [{"type": kind, "share": share, "share_of_all_tokens": 0.1}]}


def drawn(served=(), types=None, layers=(0, 3), experts=4) -> dict:
    return tiles.picture(layers=layers, experts=experts, datasets=DATASETS, served=served, types=types or {})


def test_a_tile_shows_a_dataset_else_a_type_of_token_else_nothing():
    served = [service(3, 1, "python", 0.9), service(0, 2, "python", 0.2, "small"), service(0, 2, "web", 0.3, "small")]
    types = tiles.typical([row(0, 0, 0.4), row(0, 2, 0.4)], 0.05)
    found = drawn(served, types)
    (first, second) = found["layers"]
    assert [tile["code"] for tile in first["tiles"]] == ["nu", "", "We", ""]
    assert [tile["style"] for tile in first["tiles"]] == ["type", "nothing", "colour-2", "nothing"]
    assert [tile["style"] for tile in second["tiles"]] == ["nothing", "colour-1", "nothing", "nothing"]
    assert [tile["strong"] for tile in (first["tiles"][2], second["tiles"][1])] == [False, True]
    assert second["tiles"][1]["text"] == (
        "Layer 3 expert 1 serves python: 90.0 % of its tokens, 10 % of the average dataset's."
    )
    assert first["tiles"][2]["text"].endswith(
        "serves web: 30.0 % of its tokens, 10 % of the average dataset's; also python."
    )
    assert (
        first["tiles"][0]["text"] == "Layer 0 expert 0 serves number tokens: 50 % of the expert's tokens, 10 % of all."
    )
    assert first["tiles"][1]["text"] == "Layer 0 expert 1 serves nothing beyond its share."
    assert found["idle"] == 5
    assert found["legend"] == [
        {"code": "Py", "style": "colour-1", "name": "python", "tiles": 1},
        {"code": "We", "style": "colour-2", "name": "web", "tiles": 1},
        {"code": "nu", "style": "type", "name": "number tokens", "tiles": 1},
    ]


def test_the_experts_of_a_dataset_are_listed_also_where_their_tile_shows_another():
    served = [service(3, 1, "python", 0.9), service(0, 2, "web", 0.3), service(0, 2, "python", 0.2)]
    of = {dataset["name"]: dataset["experts"] for dataset in drawn(served)["datasets"]}
    assert list(of) == DATASETS
    assert of["python"] == [
        {"layer": 3, "expert": 1, "share": "90.0 %"},
        {"layer": 0, "expert": 2, "share": "20.0 %"},
    ]
    assert of["web"] and not of["cpp"]
    many = drawn([service(0, number, "web", 0.9) for number in range(7)], experts=8)["datasets"][6]
    assert (len(many["experts"]), many["more"]) == (5, 2)


def test_where_nobody_serves_anything_all_tiles_say_so():
    found = drawn()
    assert {tile["style"] for row in found["layers"] for tile in row["tiles"]} == {"nothing"}
    assert found["legend"] == [] and found["idle"] == 8
    assert not any(dataset["experts"] for dataset in found["datasets"])


def test_six_datasets_have_a_colour_and_the_rest_are_told_apart_by_letters():
    served = [service(0, number, name, 0.9) for number, name in enumerate(DATASETS)]
    served.append(service(3, 0, "stories", 0.9))  # the most frequent comes first
    found = drawn(served, experts=8)
    styles = {entry["name"]: entry["style"] for entry in found["legend"]}
    assert styles["stories"] == "colour-1" and styles["python"] == "colour-2"
    assert sorted(styles.values()) == [*(f"colour-{number}" for number in range(1, 7)), "others", "others"]


def test_codes_differ_whatever_the_names_are():
    assert tiles.codes(["python", "cpp", "comments", "console", "co"]) == {
        "python": "Py",
        "cpp": "Cp",
        "comments": "Co",
        "console": "Cn",
        "co": "C1",
    }
    names = ["a.b", "a-b", "a_b", "中文", "...", *(f"x{number}" for number in range(30))]
    found = tiles.codes(names)
    assert len(set(found.values())) == len(names) and all(len(code) >= 2 for code in found.values())


def test_a_type_counts_from_the_lower_end_of_its_share():
    rows = [row(0, 0, 0.16), row(0, 1, 0.14), row(0, 2, None), row(0, 3, 0.3) | {"types": []}]
    assert list(tiles.typical(rows, 0.05)) == [(0, 0)]
