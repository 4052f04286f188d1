"""The Hugging Face hub: model snapshots and dataset rows at pinned revisions. Only the fetch rules talk to it."""

import errno
import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from gatebook.files.sizes import format_bytes
from gatebook.inputs import rows
from gatebook.problem import Problem, causes
from gatebook.run import job

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
REMOTE_CODE = ["*.py"]
BESIDE = ["*/*", "consolidated*"]
"""Never fetched: subfolders and consolidated files, where some repositories keep the same weights once more."""


def fetch_model(name: str, repository: str, revision: str, *, trust_remote_code: bool = False) -> Path:
    """Download a model's config, tokenizer and safetensors weights into the hub's cache; the folder of the snapshot.

    `name` is the model's name in the config, for the sentences of a `Problem`. A broken connection is taken up where
    it broke, files that are complete are not fetched again, and when the hub cannot be asked, a complete snapshot in
    the cache will do. Pickled weights are never fetched, Python files only with `trust_remote_code`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    options = {
        "revision": revision,
        "allow_patterns": FILES + (REMOTE_CODE if trust_remote_code else []),
        "ignore_patterns": BESIDE,
        "tqdm_class": _bar(f"fetch {name}"),
    }
    try:
        try:
            files = snapshot_download(repository, dry_run=True, **options)
        except DryRunError:  # the hub cannot be asked: what its cache holds is returned below, or what is wrong raised
            job.log(f"models.{name}: the hub cannot be asked for {repository} at {revision}, looking in its cache")
        else:
            _check_files(f"models.{name}: {repository} at revision {revision}", files)
        return Path(snapshot_download(repository, **options))
    except Problem:
        raise
    except Exception as error:
        raise _problem(f"models.{name}", "id", repository, revision, error) from error


def link_snapshot(snapshot: Path, folder: Path) -> None:
    """Fill `folder` with links to the files of a snapshot in the hub's cache: no second copy of the weights."""
    for file in sorted(snapshot.rglob("*")):
        if not file.is_dir():
            link = folder / file.relative_to(snapshot)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    (folder / "commit.txt").write_text(commit(snapshot) + "\n")


def commit(folder: Path) -> str:
    """The commit that a snapshot was resolved to: the hub's cache names the folder after it."""
    return folder.name


def fetch_rows(
    dataset: str,
    path: str,
    *,
    name: str | None,
    split: str,
    revision: str,
    limit: int | None,
    where: Mapping = MappingProxyType({}),
):
    """The first rows of a dataset split; only what is needed is downloaded.

    Parameters
    ----------
    dataset
        Its name in the config.
    path, name, split, revision
        Repository, configuration, split and branch, tag or commit on the hub.
    limit
        How many rows, or all.
    where
        Which rows, see `rows.where`: all before the last of them are downloaded, too.

    Returns
    -------
    pyarrow.Table
        Its schema keeps as the metadata `commit` the one that `revision` stands for.

    Raises
    ------
    Problem
        If it cannot be fetched.
    """
    import pyarrow as pa
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        resolved = HfApi().dataset_info(path, revision=revision).sha
        HfApi().auth_check(path, repo_type="dataset")  # `datasets` does not tell a gated dataset from an unknown one
        stream = load_dataset(f"hf://datasets/{path}", name, split=split, revision=resolved, streaming=True)
        numbered = (rows.Row(number, f"row {number}", columns) for number, columns in enumerate(stream))
        kept = islice(rows.where(f"datasets.{dataset}.where", numbered, where), limit)
        found = [row.columns for row in job.progress(kept, total=limit, unit="rows", description=dataset)]
    except Problem:
        raise
    except Exception as error:
        raise _problem(f"datasets.{dataset}", "path", path, revision, error) from error
    return pa.Table.from_pylist(found).replace_schema_metadata({"commit": resolved})


def _check_files(what: str, files: list) -> None:
    """Refuse, before the download, weights that are not in safetensors, and more bytes than the disk has room for."""
    from huggingface_hub import constants

    if not any(file.filename.endswith(".safetensors") for file in files):
        raise Problem(f"{what} has no *.safetensors file, and pickled weights are never loaded: use one that has.")
    needed = sum(file.file_size or 0 for file in files if file.will_download)
    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if needed > free:
        raise Problem(
            f"{what} needs {format_bytes(needed)} more, and {cache} has {format_bytes(free)} free: make room there, or "
            "set HF_HOME to a folder on a larger disk."
        )


def _bar(description: str) -> type:
    """The progress bar that the hub's library uses: of its three bars only the bytes written, paced as our own."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args, **options):
            options.pop("disable", None)  # the library shows bars on terminals only, we also in logs
            if options.pop("name", None) != "huggingface_hub.snapshot_download":
                options["disable"] = True
            own = {"desc": description, "mininterval": job.interval(), "delay": job.interval(), "position": 0}
            super().__init__(*args, **options | own)

        def display(self, *args, **options):  # the library refreshes its bars at every file, whatever their delay
            if self._time() >= self.start_t + self.delay:
                super().display(*args, **options)

    return Bar


def _problem(key: str, place: str, repository: str, revision: str, error: Exception) -> Problem:
    """What went wrong on the way to the hub, in one sentence: every kind of failure of its libraries ends here.

    `key` is the config's entry, `place` the name of the key in it that holds the repository.
    """
    import httpx2
    from huggingface_hub import constants, errors, get_token

    what = f"{key}: {repository} at revision {revision}"
    page = f"{constants.ENDPOINT}/{'datasets/' if place == 'path' else ''}{repository}"
    for cause in causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        match cause:
            case errors.GatedRepoError() if get_token():
                return Problem(f"{what} is gated, and not open to your access token: ask for access on {page}.")
            case errors.GatedRepoError():
                return Problem(f"{what} is gated: accept its terms on {page}, and set HF_TOKEN to your access token.")
            case errors.RepositoryNotFoundError():
                return Problem(
                    f"{what} is not on the hub, or it is private: correct `{place}`, or set HF_TOKEN to an access "
                    "token that may read it."
                )
            case errors.RevisionNotFoundError():
                return Problem(f"{what} is not on the hub: use a branch, tag or commit that {page} lists.")
            case errors.OfflineModeIsEnabled():
                return Problem(f"{what} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it: unset it.")
            case errors.HfHubHTTPError() if status == 401:
                return Problem(f"{what}: the hub refuses the access token: renew HF_TOKEN, or unset it.")
            case OSError(errno=errno.ENOSPC | errno.EDQUOT):
                return Problem(
                    f"{what}: {constants.HF_HUB_CACHE} is full: make room there, or set HF_HOME to a folder on a "
                    "larger disk."
                )
            case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR):
                return Problem(
                    f"{what}: {constants.HF_HUB_CACHE} cannot be written ({_reason(cause)}): set HF_HOME to a folder "
                    "that you may write to."
                )
            case httpx2.TransportError() | ConnectionError() | TimeoutError():
                return Problem(
                    f"{what}: {constants.ENDPOINT} cannot be reached ({_reason(cause)}): check the network and run "
                    "again."
                )
    return Problem(f"{what} cannot be fetched ({_reason(error)}): correct {key}, or try again later.")


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
