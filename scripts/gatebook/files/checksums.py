"""Checksums of files and arrays."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def sha256(*paths: str | Path) -> str:
    """SHA-256 (hexadecimal) over the contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def array_sha256(*arrays: "np.ndarray") -> str:
    """SHA-256 (hexadecimal) over dtype, shape and contents of arrays, in the given order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
