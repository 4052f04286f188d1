"""The Hugging Face hub: model snapshots and dataset rows at pinned revisions. Only the fetch rules talk to it."""

import csv
import errno
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from gatebook.files.sizes import format_bytes
from gatebook.inputs import rows
from gatebook.problem import Problem, causes
from gatebook.run import job

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
TOKENIZER = [pattern for pattern in FILES if pattern != "*.safetensors"]
REMOTE_CODE = ["*.py"]
BESIDE = ["*/*", "consolidated*"]
"""Never fetched: subfolders and consolidated files, where some repositories keep the same weights once more."""
WITHOUT_TYPES = ("json", "csv")
"""Formats whose values have no types of their own: what they hold is read as it is written (`inputs.rows`)."""
READ = ("features", "sep", "delimiter", "chunksize")
"""Options of the readers of such files, beside those of every reader, of which the values are as written whatever they
are, or that are followed."""


def fetch_model(
    name: str, repository: str, revision: str, *, trust_remote_code: bool = False, files: Sequence[str] = FILES
) -> Path:
    """Download a model's config, tokenizer and safetensors weights into the hub's cache; the folder of the snapshot.

    A broken connection is taken up where it broke, files that are complete are not fetched again, and when the hub
    cannot be asked, a complete snapshot in the cache will do. Pickled weights are never fetched.

    Parameters
    ----------
    name
        Of the model in the config, for the sentences of a `Problem`.
    repository, revision
        On the hub.
    trust_remote_code
        Whether Python files are fetched.
    files
        Patterns of the others.

    Returns
    -------
    pathlib.Path
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    options = {
        "revision": revision,
        "allow_patterns": [*files] + (REMOTE_CODE if trust_remote_code else []),
        "ignore_patterns": BESIDE,
        "tqdm_class": _bar(f"fetch {name}"),
    }
    try:
        try:
            planned = snapshot_download(repository, dry_run=True, **options)
        except DryRunError:  # the hub cannot be asked: what its cache holds is returned below, or what is wrong raised
            job.log(f"models.{name}: the hub cannot be asked for {repository} at {revision}, looking in its cache")
        else:
            if "*.safetensors" in files:
                _check_files(f"models.{name}: {repository} at revision {revision}", planned)
        return Path(snapshot_download(repository, **options))
    except Problem:
        raise
    except Exception as error:
        raise _problem(f"models.{name}", "id", repository, revision, error) from error


def fetch_tokenizer(name: str, repository: str, revision: str, *, trust_remote_code: bool = False) -> Path:
    """Download a model's tokenizer and config, without its weights, into the hub's cache: see `fetch_model`."""
    return fetch_model(name, repository, revision, trust_remote_code=trust_remote_code, files=TOKENIZER)


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

    Values of JSON and CSV are as they are written there: numbers are their characters, and nothing becomes a date.

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
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    key = f"datasets.{dataset}"
    try:
        resolved = HfApi().dataset_info(path, revision=revision).sha
        HfApi().auth_check(path, repo_type="dataset")  # `datasets` does not tell a gated dataset from an unknown one
        builder = load_dataset_builder(f"hf://datasets/{path}", name, revision=resolved)
        kind = type(builder).__module__.rpartition(".")[2]
        if kind in WITHOUT_TYPES:
            given = _as_written(f"{key}: {path} at revision {revision}", builder, kind, split)
        else:
            given = builder.as_streaming_dataset(split)
        numbered = (rows.Row(number, f"row {number}", columns) for number, columns in enumerate(given))
        kept = islice(rows.where(f"{key}.where", numbered, where), limit)
        found = [row.columns for row in job.progress(kept, total=limit, unit="rows", description=dataset)]
    except Problem:
        raise
    except Exception as error:
        raise _problem(key, "path", path, revision, error) from error
    return _table(key, found).replace_schema_metadata({"commit": resolved})


def _as_written(what: str, builder, kind: str, split: str) -> Iterator[dict]:
    """The rows of a split whose files have no types, with every value as it is written."""
    files, names = builder.config.data_files, [part.strip() for part in split.split("+")]
    if not files.keys() >= set(names):
        raise ValueError(f"Bad split: {split}. Available splits: {list(files)}")
    urls = [url for name in names for url in files[name]]
    form = _form(what, builder.config, kind, urls)
    for url in urls:
        try:
            for _, columns in rows.of_file(url, form, None, opened=_opened):
                yield columns
        except (ValueError, RecursionError, csv.Error) as error:
            reason = str(error).splitlines()[0].rstrip(".:")
            raise Problem(
                f"{what}: {_path(url)} cannot be read as {form} ({reason}): use another revision, or download the "
                "files, mend them, and use `source: files`."
            ) from error


def _form(what: str, given, kind: str, urls: Sequence[str]) -> str:
    """The format of files without types (see `rows.read`); a `Problem` if it takes more to read them.

    `given` is what the dataset says of itself, the config of its builder, and `kind` the name of that.
    """
    from datasets import BuilderConfig

    usual = type(given)()
    followed = {field.name for field in fields(BuilderConfig)}.union(READ)
    more = [field.name for field in fields(usual) if getattr(given, field.name) != getattr(usual, field.name)]
    needs = [f"the option {name!r}" for name in more if name not in followed]
    if kind == "csv" and given.sep not in (",", "\t"):
        needs.append(f"the separator {given.sep!r}")
    endings = tuple(ending + packed for ending in rows.FORMATS for packed in ("", *rows.COMPRESSED))
    needs += [f"{_path(url)} to be unpacked" for url in urls if not url.lower().endswith(endings)]
    if needs:
        raise Problem(
            f"{what} needs {needs[0]}, and files without types are read as they are: set `revision: "
            "refs/convert/parquet`, or download the files and use `source: files`."
        )
    return "tsv" if kind == "csv" and given.sep == "\t" else kind


def _path(url: str) -> str:
    """The path in its repository of a file with an address such as hf://datasets/owner/name@commit/data/test.json."""
    return url.partition("@")[2].partition("/")[2]


def _opened(url: str):
    """A file of the hub as a stream, decompressed by its ending."""
    import pyarrow as pa
    from datasets.utils.file_utils import xopen

    packed = url.lower().endswith(rows.COMPRESSED)
    return pa.input_stream(xopen(url, "rb"), compression=pa.Codec.detect(url).name if packed else None)


def _table(key: str, found: Sequence[Mapping]):
    """Rows as a table with all columns that one of them has; a `Problem` if the values of a column do not fit it."""
    import pyarrow as pa

    columns = {}
    for name in dict.fromkeys(name for row in found for name in row):
        try:
            columns[name] = pa.array([_without_empty(row.get(name)) for row in found])
        except (pa.ArrowException, UnicodeEncodeError) as error:
            reason = str(error).splitlines()[0].rstrip(".:")
            raise Problem(
                f"{key}: a table cannot hold the values of the column {name!r} together ({reason}): download the "
                "files, and use `source: files`."
            ) from error
    return pa.table(columns)


def _without_empty(value):
    """A value without objects that have no keys, which a table cannot hold: they are null."""
    if isinstance(value, dict):
        return {key: _without_empty(each) for key, each in value.items()} or None
    return [_without_empty(each) for each in value] if isinstance(value, list) else value


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
