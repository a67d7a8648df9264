"""What is read again and again is kept on disk, and read as it was written."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from edgeopt.calibrate import spool
from edgeopt.calibrate.spool import feeds_of, spooled, spooled_images
from edgeopt.dataset.arrays import read_arrays, stream_arrays
from edgeopt.errors import DataError, StorageError

RECORDS = [
    [np.arange(12, dtype=np.float32).reshape(1, 3, 4), np.array(7, np.int64)],
    [np.zeros((1, 0, 4), np.float32), np.asfortranarray(np.eye(3, dtype=np.uint8))],
    [np.array(["a", "b"], object), [np.zeros(2)]],
]


@pytest.mark.parametrize("memory", [1, 1 << 20], ids=["on disk", "in memory"])
def test_records_come_back_as_they_were(memory, monkeypatch):
    monkeypatch.setattr(spool, "MEMORY_BYTES", memory)
    stored = spooled(RECORDS)
    assert len(stored) == len(RECORDS)
    for _ in range(2):
        for record, original in zip(stored, RECORDS, strict=True):
            for array, expected in zip(record, original, strict=True):
                np.testing.assert_array_equal(array, expected)
    (first, _) = stored[0]
    first[:] = 0.0
    assert stored[0][0].any(), "what is read is the reader's own"


def test_images_are_read_when_they_are_asked_for():
    images = spooled_images((str(i), {"x": np.full((1, 2), i), "y": np.ones(1)}) for i in range(9))
    assert [name for name, _ in images[2:8:3]] == ["2", "5"]
    assert feeds_of(images)[-1]["x"].tolist() == [[8, 8]]
    kept = weakref.ref(images[4][1]["x"])
    gc.collect()
    assert kept() is None


def test_a_full_disk_is_said(monkeypatch):
    records = spool.Spool()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records._file, "write", full)
    with pytest.raises(StorageError, match="cannot write"):
        records.append([np.zeros(3)])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("second", [np.arange(10), np.asfortranarray(np.arange(20).reshape(5, 4))])
def test_an_archive_read_sample_after_sample_is_the_archive(save, second, tmp_path: Path):
    samples = len(second)
    save(tmp_path / "x.npz", image=np.random.default_rng(0).normal(size=(samples, 3, 2)), flag=second)
    arrays, count = read_arrays(tmp_path / "x.npz")
    rows = list(stream_arrays(tmp_path / "x.npz"))
    assert len(rows) == count == samples
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.concatenate([row[name] for row in rows]), array)
        assert rows[0][name].dtype == array.dtype


def test_a_damaged_archive_is_named_with_the_sample(tmp_path: Path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones((50, 100)))
    content = bytearray(path.read_bytes())
    content[20000] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz is damaged at sample"):
        list(stream_arrays(path))
