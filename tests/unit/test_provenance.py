"""The account of a study names every seed, machine and job; the crate names every file."""

from pathlib import Path

from gatebook.run import crate, provenance

MACHINE = {"processor": "a", "cores": 2}
OTHER = {"processor": "b", "cores": 4}


def receipt(rule: str, minute: int, hardware: dict, *sizes: int) -> dict:
    outputs = [
        {"path": f"results/tables/{rule} {number}.csv", "sha256": f"{size:064x}", "bytes": size}
        for number, size in enumerate(sizes)
    ]
    return {
        "rule": rule,
        "wildcards": {},
        "code": "c" * 16,
        "started": f"2026-01-01T00:{minute:02}:00+00:00",
        "seconds": 30.5,
        "hardware": hardware,
        "outputs": outputs,
    }


RECEIPTS = [receipt("second", 2, OTHER, 5), receipt("first", 1, MACHINE, 3, 4), receipt("third", 3, MACHINE, 6)]
CONFIG = {"study": {"title": "A study"}, "statistics": {"seed": 1}, "a": {"b": {"permutation_seed": 2, "c": 3}}}
ACCOUNT = provenance.account(
    config=CONFIG, commit="abc", software={"python": "3"}, models=[], datasets=[{"provenance": "x", "tokens": 9}],
    receipts=RECEIPTS,
)  # fmt: skip


def test_jobs_are_told_in_the_order_of_their_start_with_their_machines():
    assert [(job["rule"], job["hardware"], job["files"], job["bytes"]) for job in ACCOUNT["jobs"]] == [
        ("first", 0, 2, 7),
        ("second", 1, 1, 5),
        ("third", 0, 1, 6),
    ]
    assert ACCOUNT["hardware"] == [MACHINE | {"jobs": 2}, OTHER | {"jobs": 1}]
    assert ACCOUNT["totals"] == {"jobs": 3, "seconds": 91.5, "files": 4, "bytes": 18}


def test_seeds_are_named_by_their_config_keys():
    assert ACCOUNT["seeds"] == {"statistics.seed": 1, "a.b.permutation_seed": 2}
    assert ACCOUNT["datasets"] == [{"tokens": 9}]


def test_the_crate_names_every_file_with_its_checksum_and_the_run_that_made_it():
    outputs = [entry for one in RECEIPTS for entry in one["outputs"]]
    content = crate.describe(ACCOUNT, outputs, Path("results"))
    entities = {entity["@id"]: entity for entity in content["@graph"]}
    files = {name: entity for name, entity in entities.items() if entity["@type"] == "File"}
    assert set(files) == {f"tables/{name}.csv" for name in ("first%200", "first%201", "second%200", "third%200")}
    assert files["tables/second%200.csv"]["sha256"] == f"{5:064x}"
    assert files["tables/second%200.csv"]["contentSize"] == 5
    assert files["tables/second%200.csv"]["encodingFormat"] == "text/csv"
    run = entities["#run"]
    assert {part["@id"] for part in run["result"]} == set(files)
    assert (run["startTime"], run["endTime"]) == ("2026-01-01T00:01:00+00:00", "2026-01-01T00:03:30.500000+00:00")
    assert entities["./"]["mentions"] == {"@id": "#run"}
    assert entities["#workflow"]["version"] == "abc"
