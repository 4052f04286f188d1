"""What a folder holds, with checksums: for the list of the report's own files."""

from pathlib import Path

from gatebook.files.checksums import sha256


def manifest(folder: Path) -> list[dict]:
    """Path, SHA-256 and size in bytes of every file below `folder`, in the order of the paths."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [
        {"path": path.relative_to(folder).as_posix(), "sha256": sha256(path), "bytes": path.stat().st_size}
        for path in files
    ]


def summary(folder: Path, root: Path) -> dict:
    """One line for a folder below `root`, like those of `manifest`: its checksum is over the files in their order."""
    files = manifest(folder)
    return {
        "path": f"{folder.relative_to(root).as_posix()}/ ({len(files):,} files)",
        "sha256": sha256(*(folder / file["path"] for file in files)),
        "bytes": sum(file["bytes"] for file in files),
    }
