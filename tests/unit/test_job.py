"""A job ends in one sentence for people, a full traceback in the log, and never leaves half a file."""

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
import time
from importlib import metadata
from pathlib import Path

import pytest

import gatebook
from gatebook.files import origin
from gatebook.run import job

SCRIPTS = Path(__file__).parents[2] / "scripts"
PREAMBLE = """
import sys
sys.path.insert(0, {scripts!r})
from gatebook.files import atomic, origin
from gatebook.problem import Problem
from gatebook.run import alone, job
job.start(alone.build("measure", log={log!r}, output={output!r}, wildcards={{"model": "tiny"}},
                      params={{"code": "c0de", "statistics": {{"seed": 1}}}}))
"""


@pytest.fixture
def run(tmp_path):
    """Run lines of a script in a process of its own: (exit code, stderr, log)."""

    def start(lines: str) -> subprocess.Popen:
        code = PREAMBLE.format(
            scripts=str(SCRIPTS),
            log=str(tmp_path / "job.log"),
            output={"table": "out.csv"} if "out.csv" in lines else {},
        ) + textwrap.dedent(lines)
        (tmp_path / "script.py").write_text(code)
        command = [sys.executable, str(tmp_path / "script.py")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)

    def finish(lines: str) -> tuple[int, str, str]:
        process = start(lines)
        _, stderr = process.communicate(timeout=60)
        return process.returncode, stderr, (tmp_path / "job.log").read_text()

    finish.start = start
    return finish


@pytest.mark.slow
def test_a_problem_is_one_sentence_on_stderr_and_in_the_log(run):
    code, stderr, log = run("raise Problem('data/a.jsonl has no column: add it.')")
    assert code == 1
    assert stderr == log == "Error: data/a.jsonl has no column: add it.\n"


def test_an_unexpected_error_is_one_line_on_stderr_and_a_traceback_in_the_log(run):
    code, stderr, log = run("""
        def deep():
            return {}['layer']
        deep()
    """)
    assert code == 1
    assert stderr == "Unexpected KeyError: 'layer'\n"
    assert log.startswith("Unexpected KeyError: 'layer'\nTraceback (most recent call last):\n")
    assert "in deep\n" in log


def test_a_problem_raised_from_another_error_is_still_one_sentence(run):
    code, stderr, log = run("""
        try:
            open('absent')
        except OSError as error:
            raise Problem('absent cannot be read: make it.') from error
    """)
    assert (code, stderr, log) == (
        1,
        "Error: absent cannot be read: make it.\n",
        "Error: absent cannot be read: make it.\n",
    )


@pytest.mark.slow
def test_lines_of_the_log_go_to_both_and_a_new_run_starts_a_new_log(run):
    for word in ("first", "second"):
        code, stderr, log = run(f"job.log('{word} 漢字')")
        assert (code, stderr, log) == (0, f"{word} 漢字\n", f"{word} 漢字\n")


def test_sigterm_removes_partial_files(run, tmp_path):
    process = run.start("""
        import time
        with atomic.atomic_directory('records') as folder, atomic.atomic_file('a.nc') as path:
            (folder / 'layer_0.nc').write_text('half')
            path.write_text('half')
            print('ready', flush=True)
            time.sleep(60)
    """)
    assert process.stdout.readline() == "ready\n"
    assert len([path for path in tmp_path.iterdir() if path.name.endswith(".partial")]) == 2
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert process.returncode == 1
    assert stderr == "stopped by SIGTERM\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.log", "script.py"]


def test_the_keyboard_ends_a_job_without_a_traceback(run):
    code, stderr, log = run("raise KeyboardInterrupt")
    assert code != 0
    assert stderr == log == "Stopped from the keyboard.\n"


@pytest.mark.slow
def test_provenance_names_rule_wildcards_settings_code_and_software(run):
    code, stderr, _ = run("""
        import json
        job.log(json.dumps(origin.provenance()))
    """)
    assert code == 0
    provenance = json.loads(stderr)
    assert {key: value for key, value in provenance.items() if key != "software"} == {
        "rule": "measure",
        "wildcards": {"model": "tiny"},
        "settings": {"statistics": {"seed": 1}},
        "code": "c0de",
    }
    assert provenance["software"] == job.software()


def test_software_versions_are_the_installed_ones():
    versions = job.software()
    assert versions["gatebook"] == gatebook.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("torch", "transformers", "tokenizers", "datasets", "numpy", "xarray", "netCDF4", "snakemake"):
        assert versions[name] == metadata.version(name)


def test_there_is_no_provenance_outside_a_job():
    assert origin.provenance() == {}


def test_a_progress_bar_counts_what_it_wraps(capsys):
    assert list(job.progress(range(5), unit=" rows", description="read")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""  # too short to be worth a bar


@pytest.mark.slow
@pytest.mark.parametrize(
    "end", ["", "raise Problem('full')", "raise ValueError('x')", "import os, signal; os.kill(os.getpid(), 15)"]
)
def test_only_a_job_that_ends_well_leaves_a_receipt(run, tmp_path, end):
    receipt = tmp_path / "job.json"
    receipt.write_text("of an earlier run")
    code, _, _ = run(f"open('out.csv', 'w').write('a')\n{end}")
    assert receipt.exists() == (code == 0)
    if receipt.exists():
        assert json.loads(receipt.read_text())["outputs"] == [
            {"path": "out.csv", "sha256": hashlib.sha256(b"a").hexdigest(), "bytes": 1}
        ]


def test_a_receipt_that_cannot_be_written_fails_the_job(run, tmp_path):
    (tmp_path / "job.json").mkdir()
    code, stderr, _ = run("open('out.csv', 'w').write('a')")
    assert code == 1 and "job.json" in stderr
