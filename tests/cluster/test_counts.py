"""A chapter of published counts on a real Slurm: the same bytes as on one machine, in a minute."""

from studies import COUNTS, COUNTS_STUDY, ROOT, Workflow

FIGURES = "results/figures/published/v1/selection_frequency"
SLURM = ("--profile", str(ROOT / "config/profiles/slurm"), "--slurm-init-seconds-before-status-checks", "1")


def test_a_chapter_has_the_bytes_of_a_local_one(cluster, counts_study, tmp_path):
    study = Workflow(tmp_path / "slurm")
    (study.folder / "data").mkdir()
    (study.folder / "data/counts.csv").write_text(COUNTS, encoding="utf-8")
    before = len(cluster.jobs())
    study.finish(*SLURM, FIGURES, configs=[study.overlay("counts.yaml", COUNTS_STUDY)], timeout=1200)
    jobs = cluster.jobs()[before:]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"} and {job["Partition"] for job in jobs} == {"cpu"}
    assert any(job["Comment"].startswith("rule_figures_") for job in jobs)
    here, local = study.checksums(), counts_study.checksums()
    assert here == {name: local[name] for name in here}
    assert any(name.endswith(".svg") for name in here)
