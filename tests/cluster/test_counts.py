"""A chapter of published counts on a real Slurm: the same bytes as on one machine, in a minute."""

from studies import COUNTS, COUNTS_STUDY, ROOT, Workflow

FIGURES = "results/figures/published/v1/selection_frequency"
SLURM = ("--profile", str(ROOT / "config/profiles/slurm"), "--slurm-init-seconds-before-status-checks", "1")


def counts_study(folder) -> tuple[Workflow, list]:
    """A study of counts that has not run, and its config."""
    study = Workflow(folder)
    (folder / "data").mkdir()
    (folder / "data/counts.csv").write_text(COUNTS, encoding="utf-8")
    return study, [study.overlay("counts.yaml", COUNTS_STUDY)]


def test_a_chapter_has_the_bytes_of_a_local_one(cluster, tmp_path):
    study, configs = counts_study(tmp_path / "slurm")
    before = len(cluster.jobs())
    study.finish(*SLURM, FIGURES, configs=configs, timeout=1200)
    jobs = cluster.jobs()[before:]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"} and {job["Partition"] for job in jobs} == {"cpu"}
    assert any(job["Comment"].startswith("rule_figures_") for job in jobs)
    local, configs = counts_study(tmp_path / "local")
    local.finish("--profile", str(ROOT / "config/profiles/local"), FIGURES, configs=configs)
    assert study.checksums() == local.checksums()
    assert any(name.endswith(".svg") for name in study.checksums())
