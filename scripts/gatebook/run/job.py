"""One job of the workflow: its log, progress bar, provenance and receipt, and errors that end in one sentence."""

import atexit
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from tqdm import tqdm

import gatebook
from gatebook.files import origin
from gatebook.files.atomic import atomic_file
from gatebook.problem import ERROR, INTERRUPTED, UNEXPECTED, Problem
from gatebook.run import receipts

SOFTWARE = (
    "python", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy", "xarray", "netCDF4", "pandas",
    "matplotlib", "jinja2", "snakemake",
)  # fmt: skip

_log = logging.getLogger("gatebook")


def start(snakemake) -> None:
    """Begin a job: log to its file and to stderr, note its provenance, and turn errors into one sentence.

    A `Problem` is printed as it is; any other error is printed in one line, its traceback goes to the log. A job that
    ends well leaves a receipt of its outputs.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if snakemake.log:
        handlers.append(logging.FileHandler(snakemake.log[0], mode="w", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
    _log.handlers, _log.propagate = handlers, False
    _log.setLevel(logging.INFO)
    settings = {name: value for name, value in snakemake.params.items() if name != "code"}
    origin.start(
        {
            "rule": snakemake.rule,
            "wildcards": dict(snakemake.wildcards.items()),
            "settings": settings,
            "code": snakemake.params.get("code"),
            "software": software(),
        }
    )
    sys.excepthook = _report
    signal.signal(signal.SIGTERM, _stop)
    inputs, outputs = ([str(path) for path in paths] for paths in (snakemake.input, snakemake.output))
    log = snakemake.log[0]
    receipts.path_beside(log).unlink(missing_ok=True)
    atexit.register(_leave_receipt, origin.provenance(), inputs, outputs, log)


@contextmanager
def without_torch(unless: bool) -> Iterator[None]:
    """Let transformers find no torch, which takes seconds to be imported, when it is imported here for a tokenizer.

    Nothing is done if torch is loaded already, and nothing with `unless`: code of a model's repository may want it.
    """
    absent = not unless and "torch" not in sys.modules
    if absent:
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would say that it has no models
        sys.modules["torch"] = None
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]  # datasets takes what stands there for torch


def software() -> dict[str, str]:
    """Versions of this study and of the packages it computes with."""
    versions = {"gatebook": gatebook.__version__, "python": ".".join(map(str, sys.version_info[:3]))}
    return versions | {name: metadata.version(name) for name in SOFTWARE if name != "python"}


def licences(packages: list[str]) -> dict[str, str]:
    """The licence of each installed package, as its metadata states it."""
    stated = {}
    for package in packages:
        fields = metadata.metadata(package)
        classifiers = [value for value in fields.get_all("Classifier", []) if value.startswith("License")]
        short = (fields.get("License") or "").strip().splitlines()[:1]
        named = [classifier.rsplit(" :: ", 1)[-1] for classifier in classifiers]
        stated[package] = fields.get("License-Expression") or ", ".join(named) or "".join(short) or "not stated"
    return stated


def log(message: str) -> None:
    """Write one line to the job's log and to stderr."""
    _log.info(message)


def progress(iterable=None, *, total: int | None = None, unit: str = "", description: str = "") -> tqdm:
    """A progress bar on stderr: live on a terminal, a line every ten seconds elsewhere."""
    scaled = total is not None and total >= 10_000
    return tqdm(
        iterable, total=total, unit=unit, desc=description, unit_scale=scaled, mininterval=interval(), delay=interval()
    )


def interval() -> float:
    """Seconds between two states of a progress bar on stderr, and before the first."""
    return 0.2 if sys.stderr.isatty() else 10


def _leave_receipt(provenance: dict, inputs: list[str], outputs: list[str], log: str) -> None:
    try:
        with atomic_file(receipts.path_beside(log)) as path:
            path.write_text(receipts.text(receipts.make(provenance, inputs, outputs)), encoding="utf-8")
    except Exception as error:
        _report(type(error), error, error.__traceback__)
        os._exit(1)  # an exception that leaves an exit handler would not fail the job


def _stop(*_) -> None:
    atexit.unregister(_leave_receipt)
    sys.exit("stopped by SIGTERM")


def _report(kind: type[BaseException], error: BaseException, trace) -> None:
    atexit.unregister(_leave_receipt)
    if issubclass(kind, Problem):
        _log.error("%s%s", ERROR, error)
    elif issubclass(kind, KeyboardInterrupt):
        _log.error(INTERRUPTED)
    else:
        for handler in _log.handlers:
            full = isinstance(handler, logging.FileHandler)
            text = f"{UNEXPECTED}{kind.__name__}: {error}"
            record = _log.makeRecord(
                _log.name, logging.ERROR, __file__, 0, text, (), (kind, error, trace) if full else None
            )
            handler.handle(record)
