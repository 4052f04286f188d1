"""The workflow elsewhere: imported, deployed from the catalogue, in another directory or clone, on object storage."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from studies import COUNTS, COUNTS_STUDY, ROOT, planned

from gatebook.report.manifest import manifest

OUTER = """
import importlib

importlib.import_module("scripts.words")


configfile: "config/config.yaml"


module atlas:
    snakefile:
        "{snakefile}"
    {settings}


use rule * from atlas as atlas_*


rule summarize:
    default_target: True
    input:
        "{prefix}results/report",
        "{prefix}results/provenance.json",
    output:
        "summary.txt",
    script:
        "scripts/summarize.py"
"""
DEPLOYED = """
configfile: "config/config.yaml"


module gatebook:
    snakefile:
        github("somebody/gatebook", path="workflow/Snakefile", tag="v1")
    config:
        config


use rule * from gatebook
"""
SUMMARIZE = """
from pathlib import Path
from words import WORD

pages = sorted(path.name for path in Path(snakemake.input[0]).iterdir())
Path(snakemake.output[0]).write_text(" ".join([WORD, *pages]))
"""


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run snakemake in `folder` and require that it succeeds."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    env = os.environ | environment
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def plan(done: subprocess.CompletedProcess) -> list[tuple[str, str]]:
    """Rule, inputs, outputs, wildcards and resources of every job that a dry-run announces."""
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", done.stdout, flags=re.MULTILINE)
    return sorted((rule, re.sub(r"^    (jobid|reason): .*\n", "", text, flags=re.MULTILINE)) for rule, text in blocks)


def contents(results: Path) -> dict[str, str]:
    """Checksums of the results, without what tells of runs."""
    files = manifest(results)
    told = ("logs/", "receipts/", "report/run.js", "provenance.json", "ro-crate-metadata.json")
    return {file["path"]: file["sha256"] for file in files if not file["path"].startswith(told)}


@pytest.fixture(scope="module")
def study(counts_study):
    """A finished study of counts."""
    return counts_study


@pytest.fixture(scope="module")
def default(tmp_path_factory) -> subprocess.CompletedProcess:
    """A dry run of the default study, from a folder without files."""
    return snakemake(tmp_path_factory.mktemp("plan"), "--dry-run", "--snakefile", str(ROOT / "Snakefile"))


@pytest.fixture
def outer(tmp_path):
    """Another workflow, with a config and a package `scripts` of its own, that imports this one."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/__init__.py").write_text("")
    (tmp_path / "scripts/words.py").write_text('WORD = "Pages:"\n')
    (tmp_path / "scripts/summarize.py").write_text(SUMMARIZE)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump({"samples": ["a", "b"], "atlas": COUNTS_STUDY}))

    def write(settings: str, prefix: str = ""):
        text = OUTER.format(snakefile=ROOT / "Snakefile", settings=settings, prefix=prefix)
        (tmp_path / "Snakefile").write_text(text)
        return tmp_path

    return write


@pytest.mark.long
def test_another_workflow_imports_this_one_under_a_prefix(outer, study):
    folder = outer('config: config["atlas"]\n    prefix: "routing"', "routing/")
    (folder / "routing/data").mkdir(parents=True)
    (folder / "routing/data/counts.csv").write_text(COUNTS, encoding="utf-8")
    snakemake(folder)
    pages = (folder / "summary.txt").read_text().split()
    assert pages[0] == "Pages:" and {"index.html", "selection_frequency.html"} <= set(pages)
    assert not (folder / "results").exists()
    results = folder / "routing/results"
    made, expected = contents(results), contents(study.folder / "results")
    assert made.keys() == expected.keys()
    counted = [path for path in made if path.endswith((".csv", ".svg"))]
    assert counted and {path: made[path] for path in counted} == {path: expected[path] for path in counted}
    crate = json.loads((results / "ro-crate-metadata.json").read_text())
    assert "tallies/published/v1/github.nc" in {entity["@id"] for entity in crate["@graph"]}
    snakemake(folder, "atlas_verify")
    assert planned(snakemake(folder, "--dry-run")) == {}


@pytest.mark.parametrize("settings", ["", "config: {}"])
def test_an_importing_workflow_can_have_the_whole_default_study(outer, settings, default):
    jobs = planned(snakemake(outer(settings), "--dry-run"))
    assert jobs.pop("summarize") == 1
    assert {name.removeprefix("atlas_"): count for name, count in jobs.items()} == planned(default)


def test_the_snakefile_of_the_catalogue_plans_the_same_jobs_anywhere(study, default, tmp_path):
    catalogue = ("--snakefile", str(ROOT / "workflow/Snakefile"))
    assert len(plan(default)) > 100
    assert plan(snakemake(tmp_path, "--dry-run", *catalogue)) == plan(default)
    done = snakemake(study.folder, "--dry-run", *catalogue, "--configfile", "data/counts.yaml")
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_deployed_workflow_plans_the_same_jobs_and_makes_the_same_files(default, study, tmp_path):
    """As snakedeploy deploys it, but with a clone in Snakemake's cache in place of the code host."""
    copy, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".snakemake", ".*_cache", "results"))
    git = ["git", "-C", str(copy), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    clone = cache / "snakemake/snakemake/source-cache/snakemake-git-cache/github.com/somebody/gatebook"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(copy), str(clone)], check=True)
    folder = tmp_path / "deployed"
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "workflow").mkdir()
    (folder / "workflow/Snakefile").write_text(DEPLOYED)
    assert plan(snakemake(folder, "--dry-run", XDG_CACHE_HOME=str(cache))) == plan(default)
    shutil.copytree(study.folder / "data", folder / "data")
    arguments = ("results/report", "--configfile", "data/counts.yaml")
    snakemake(folder, *arguments, XDG_CACHE_HOME=str(cache))
    made, expected = contents(folder / "results"), contents(study.folder / "results")
    assert made.keys() == expected.keys()
    # Snakemake takes files out of the clone without their last line break, so the report's assets differ by it.
    equal = [path for path in made if not path.startswith("report/") or path.endswith((".csv", ".svg"))]
    assert {path: made[path] for path in equal} == {path: expected[path] for path in equal}
    assert planned(snakemake(folder, *arguments, "--dry-run", XDG_CACHE_HOME=str(cache))) == {}


def needed_by(package: str, known: set[str]) -> set[str]:
    """A package and all that it needs, added to those that are `known`."""
    requirements = map(Requirement, metadata.requires(package) or [])
    for each in [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]:
        if canonicalize_name(each.name) not in known:
            known.add(canonicalize_name(each.name))
            needed_by(each.name, known)
    return known


def test_the_catalogue_finds_what_it_asks_for_and_what_it_says_is_true():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert (ROOT / "workflow/Snakefile").is_file() and (ROOT / "config/README.md").is_file()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme and "workflow" in readme
    # its commands run Snakemake in an environment of its own: the workflow must be readable there
    present = needed_by("snakemake", {"snakemake"})
    installed = metadata.packages_distributions()
    absent = {name for name, all_of in installed.items() if not present & set(map(canonicalize_name, all_of))}
    common = (ROOT / "rules/common.smk").read_text(encoding="utf-8")
    imports = "\n".join(re.findall(r"^(?:from gatebook|import gatebook).*", common, flags=re.MULTILINE))
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n{imports}"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    read = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert usage["software-stack-deployment"]["conda"] == (read.returncode == 0)


def test_results_moved_to_a_new_clone_are_complete(study, tmp_path):
    clone = tmp_path / "clone"
    kept = shutil.ignore_patterns(".venv", ".snakemake", ".*_cache", "results")
    shutil.copytree(ROOT, clone, symlinks=True, ignore=kept)
    for name in ("results", ".snakemake", "data"):
        shutil.copytree(study.folder / name, clone / name, symlinks=True)
    again = snakemake(clone, "--dry-run", "--configfile", "data/counts.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr
    verified = snakemake(clone, "--configfile", "data/counts.yaml", "--", "verify")
    assert "are what was written" in verified.stderr


def test_nothing_is_written_outside_the_given_directory(study):
    assert {path.name for path in study.folder.iterdir()} == {"results", ".snakemake", "data"}
    for path in (study.folder / "results").rglob("*.json"):
        assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.fixture
def file_storage(tmp_path):
    """A folder as storage: snakemake's arguments and environment, and a function that says where its files are."""
    pytest.importorskip("snakemake_storage_plugin_fs")
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed")
    bucket = tmp_path / "bucket"
    (bucket / "data").mkdir(parents=True)
    (bucket / "data/counts.csv").write_text(COUNTS, encoding="utf-8")
    return ["--default-storage-provider", "fs", "--default-storage-prefix", str(bucket)], {}, lambda: bucket


@pytest.fixture
def s3_storage(tmp_path):
    """A bucket of an S3 server on this machine: as `file_storage`; the function fetches the bucket's files."""
    pytest.importorskip("snakemake_storage_plugin_s3")
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    key = {"endpoint_url": f"http://{host}:{port}", "access_key": "key", "secret_key": "secret"}
    session = boto3.Session("key", "secret", region_name="us-east-1")
    bucket = session.resource("s3", endpoint_url=key["endpoint_url"]).create_bucket(Bucket="studies")
    bucket.put_object(Key="counts/data/counts.csv", Body=COUNTS.encode())

    def fetch() -> Path:
        for item in bucket.objects.all():
            path = tmp_path / "fetched" / item.key
            path.parent.mkdir(parents=True, exist_ok=True)
            bucket.download_file(item.key, str(path))
        return tmp_path / "fetched/counts"

    environment = {f"SNAKEMAKE_STORAGE_S3_{name.upper()}": value for name, value in key.items()}
    yield ["--default-storage-provider", "s3", "--default-storage-prefix", "s3://studies/counts"], environment, fetch
    server.stop()


@pytest.mark.parametrize("kind", [pytest.param("file", marks=pytest.mark.long), "s3"])
def test_inputs_and_results_can_be_on_object_storage(kind, request, study, tmp_path):
    arguments, environment, fetch = request.getfixturevalue(f"{kind}_storage")
    chapters = ("selection_frequency", "domain_specialization")
    run = [f"results/metrics/published/v1/{chapter}.nc" for chapter in chapters]
    run += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(study.folder / "data/counts.yaml"), *arguments]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    snakemake(folder, *run, **environment)
    made, alone = contents(fetch() / "results"), contents(study.folder / "results")
    assert {path.split("/")[0] for path in made} == {"draws", "metrics", "tables", "tallies"}
    assert made == {path: alone[path] for path in made}
    assert not (folder / "results").exists()
    again = snakemake(folder, *run, "--dry-run", **environment)
    assert "Nothing to be done" in again.stdout + again.stderr
