"""The Hugging Face hub: model snapshots and dataset rows at pinned revisions."""

from itertools import islice
from pathlib import Path

from moeatlas import job

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def fetch_model(repository: str, revision: str) -> Path:
    """Download a model's config, tokenizer and safetensors weights into the hub's cache; the folder of the snapshot.

    A download that was interrupted goes on where it stopped. Pickled weights and remote code are never fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=FILES))
    except Exception as error:
        raise _problem(f"model {repository}", revision, error) from error


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


def fetch_rows(dataset: str, path: str, *, name: str | None, split: str, revision: str, limit: int | None):
    """The first `limit` rows (or all) of a dataset split as a pyarrow table; only what is needed is downloaded."""
    import pyarrow as pa
    from datasets import load_dataset

    try:
        stream = load_dataset(path, name, split=split, revision=revision, streaming=True)
        rows = list(islice(job.progress(stream, total=limit, unit="rows", description=dataset), limit))
    except Exception as error:
        raise _problem(f"dataset {path}", revision, error) from error
    return pa.Table.from_pylist(rows)


def _problem(what: str, revision: str, error: Exception) -> job.Problem:
    """What went wrong on the way to the hub, in one sentence: every kind of failure of its libraries ends here."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return job.Problem(
        f"{what} at revision {revision} cannot be fetched ({reason}): check its name, revision, access token "
        "(HF_TOKEN) and the network."
    )
