"""Checksums of files, arrays and folders."""

import hashlib

import numpy as np

from gatebook.files import checksums
from gatebook.report.manifest import summary


def test_checksum_of_files_is_that_of_their_contents_in_order(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"ab")
    two.write_bytes(b"c")
    assert checksums.sha256(one, two) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"
    assert checksums.sha256(two, one) != checksums.sha256(one, two)


def test_checksum_of_arrays_depends_on_dtype_shape_contents_and_order():
    base = np.arange(6, dtype=np.int32)
    variants = [
        (base,),
        (base.astype(np.int64),),
        (base.view(np.float32),),
        (base.reshape(2, 3),),
        (base.reshape(3, 2),),
        (base[::-1],),
        (base[:3], base[3:]),
        (base[3:], base[:3]),
    ]
    assert len({checksums.array_sha256(*arrays) for arrays in variants}) == len(variants)
    assert checksums.array_sha256(base.reshape(2, 3).T) == checksums.array_sha256(base.reshape(2, 3).T.copy())


def test_a_folder_is_one_line_of_the_manifest(tmp_path):
    folder = tmp_path / "experts" / "demo"
    folder.mkdir(parents=True)
    (folder / "b.json").write_text("bb")
    (folder / "a.json").write_text("a")
    whole = hashlib.sha256(b"abb").hexdigest()
    assert summary(folder, tmp_path) == {"path": "experts/demo/ (2 files)", "sha256": whole, "bytes": 3}
