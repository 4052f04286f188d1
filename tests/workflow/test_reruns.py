"""What runs again after an edit, and what does not: dry runs of finished studies, in a clone of the repository."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from studies import COUNTS, ROOT, Workflow, planned

from gatebook.run import receipts

pytestmark = pytest.mark.long

REPORT = {"build_report": 1, "record_provenance": 1}
OVERLAY = Path("tests/config/tiny.yaml")


def git(*arguments: str, folder: Path = ROOT) -> str:
    """What a command of git prints."""
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory, tiny_study) -> Path:
    """A fresh clone of the repository, with what is not committed yet, into which a finished study was moved."""
    folder = tmp_path_factory.mktemp("clone") / "gatebook"
    git("clone", "--quiet", str(ROOT), str(folder))
    if changes := git("diff", "--binary", "HEAD"):
        subprocess.run(["git", "-C", str(folder), "apply"], input=changes, check=True, text=True)
    for name in git("ls-files", "--others", "--exclude-standard").splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("results", ".snakemake"):
        shutil.copytree(tiny_study.folder / name, folder / name, symlinks=True)
    return folder


def dry_run(clone: Path, *arguments: str, configs=(OVERLAY,), folder: Path | None = None) -> dict[str, int]:
    """The jobs that snakemake plans, started in the clone or another folder."""
    command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run", "--configfile", *map(str, configs)]
    done = subprocess.run(command, cwd=folder or clone, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return planned(done)


def of_make() -> list[str]:
    """How `make study` calls snakemake."""
    recipe = subprocess.run(
        ["make", "--dry-run", "--directory", str(ROOT), "study", "CORES=2"], check=True, capture_output=True, text=True
    )
    return re.search(r"snakemake (.*)", recipe.stdout)[1].split()


def test_jobs_use_a_copy_of_the_library_that_an_edit_does_not_change(clone, tmp_path):
    module = clone / "scripts/gatebook/problem.py"
    known, found = module.read_text(encoding="utf-8"), []
    for text in (known, known, known + "# edited\n"):
        module.write_text(text, encoding="utf-8")
        dry_run(clone, "--cores", "1", "--directory", str(tmp_path))
        copies = tmp_path.glob(".snakemake/library/*/scripts/gatebook/problem.py")
        found.append(sorted(path.read_text(encoding="utf-8") for path in copies))
    module.write_text(known, encoding="utf-8")
    assert found == [[known], [known], [known, known + "# edited\n"]]


@pytest.mark.parametrize("profile", [None, "local", "ci", "slurm", "generic", "make"])
def test_a_fresh_clone_with_moved_results_has_nothing_to_do(clone, profile):
    arguments = {None: ["--cores", "2"], "make": of_make()}.get(profile, ["--profile", f"config/profiles/{profile}"])
    written = max(path.stat().st_mtime for path in (clone / "results").rglob("*"))
    assert all(path.stat().st_mtime > written for part in ("scripts", "rules") for path in (clone / part).rglob("*.*"))
    assert dry_run(clone, *arguments) == {}


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_nothing_is_to_be_done_from_another_folder_either(clone, snakefile, tmp_path):
    arguments = ["--cores", "2", "--snakefile", str(clone / snakefile), "--directory", str(clone)]
    assert dry_run(clone, *arguments, configs=[clone / OVERLAY], folder=tmp_path) == {}


EDITS = {
    "a colour": ("scripts/gatebook/figures/style.py", '"#2741e1"', '"#2741e2"', {"plot_chapter": 30} | REPORT),
    "the page of a chapter": ("scripts/gatebook/chapters/maps/page.py", "", "NEW = 1\n", {"plot_chapter": 1} | REPORT),
    "a helper of the report": ("scripts/gatebook/report/manifest.py", "", "NEW = 1\n", REPORT),
    "a template of the report": ("report/templates/index.html.j2", "", "\n", REPORT),
    "a recorded package": ("scripts/gatebook/run/job.py", '"jinja2"', '"jinja2", "requests"', REPORT),
    "how receipts are read": ("scripts/gatebook/run/receipts.py", "", "NEW = 1\n", REPORT),
    "a comment": ("scripts/gatebook/files/netcdf.py", "", "# Why.\n", {}),
}
"""File, what is replaced in it, or "" for its end, by what, and the jobs that this starts."""


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_starts_what_depends_on_it(clone, edit):
    name, old, new, jobs = EDITS[edit]
    git("update-index", "--assume-unchanged", name, folder=clone)  # the report is to rest on the edit, not on its date
    path = clone / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else text + new, encoding="utf-8")
    try:
        assert dry_run(clone, "--cores", "2") == jobs
    finally:
        path.write_text(text, encoding="utf-8")


def test_a_threshold_starts_the_chapter_that_reads_it(clone, tmp_path):
    overlay = tmp_path / "threshold.yaml"
    overlay.write_text("router_decisiveness: {thresholds: {decisive_entropy: 0.6}}\n")
    assert dry_run(clone, "--cores", "2", configs=[OVERLAY, overlay]) == {"plot_chapter": 1, **REPORT}


def test_an_untracked_file_starts_nothing_and_is_no_local_change(clone):
    (clone / "my_study.yaml").write_text("study: {}\n")
    (clone / "notes").mkdir()
    (clone / "notes/draft.py").write_text("x = 1\n")
    assert dry_run(clone, "--cores", "2") == {}  # or the report, whose identity card names the commit, were made again


@pytest.fixture
def moved(tmp_path, counts_study):
    """A copy of the study of counts, and a function that plans it with a config."""
    study = Workflow(tmp_path / "moved")
    shutil.copytree(counts_study.folder, study.folder, symlinks=True, dirs_exist_ok=True)

    def plan(**changes) -> dict[str, int]:
        configs = [study.folder / "data/counts.yaml", study.overlay("data/changes.yaml", changes)]
        return planned(study.finish("--dry-run", configs=configs))

    return study, plan


def test_counts_of_other_content_start_what_rests_on_them_and_those_of_another_date_nothing(moved):
    study, plan = moved
    counts = study.folder / "data/counts.csv"
    counts.touch()
    assert plan() == {}  # up to a size of 1 MB, beyond which Snakemake compares no checksums
    changed = COUNTS.replace("github,0,0,8000,", "github,0,0,7000,").replace("github,0,1,5000,", "github,0,1,6000,")
    assert changed != COUNTS
    counts.write_text(changed)
    measured = {"measure_domain_specialization": 1, "measure_selection_frequency": 1, "plot_chapter": 2}
    assert plan() == {"describe_counts": 1, "tally_counts": 1, **measured, **REPORT}


CHANGES = {
    "the same study": {},
    "a setting of one chapter": {"domain_specialization": {"permutations": 200}},
    "a setting of many jobs": {"models": {"published": {"experts_per_token": 3}}},
    "one dataset less": {"study": {"datasets": ["arxiv"]}},
    "another title": {"study": {"title": "Other counts"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_results_without_snakemakes_metadata_meet_another_config_as_those_with_it(moved, change):
    study, plan = moved
    expected = plan(**CHANGES[change])
    shutil.rmtree(study.folder / ".snakemake")
    assert plan(**CHANGES[change]) == expected
    assert plan(**CHANGES[change]) == expected  # also when the metadata were written once
    assert (expected == {}) == (change == "the same study")


def test_receipts_that_are_no_use_are_passed_over(moved):
    study, plan = moved
    shutil.rmtree(study.folder / ".snakemake")
    folder = study.folder / "results/receipts"
    known = next(receipt for _, receipt in receipts.read(folder) if receipt["rule"] == "describe_counts")
    foreign = [
        known | {"rule": "plot_maps"},
        known | {"wildcards": {"model": "other", "checkpoint": "v1"}},
        known | {"wildcards": {}},
    ]
    for number, receipt in enumerate(foreign):
        (folder / f"{number}.json").write_text(receipts.text(receipt), encoding="utf-8")
    for name, content in {"half": '{"rule": ', "list": "[1]", "text": '"a"', "binary": "\x00", "empty": ""}.items():
        (folder / f"{name}.json").write_text(content, encoding="utf-8")
    (folder / "describe_counts/published/v1.json").write_text("{}", encoding="utf-8")
    assert plan() == {}


@pytest.mark.parametrize("kept", [True, False], ids=["with metadata", "without metadata"])
def test_what_other_code_made_does_not_stand(moved, kept):
    study, plan = moved
    study.restamp("describe_counts", "0123456789abcdef")
    if not kept:
        shutil.rmtree(study.folder / ".snakemake")
    assert plan() == {"describe_counts": 1, **REPORT}
