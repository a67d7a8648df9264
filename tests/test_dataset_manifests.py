"""The manifests in calibration/: well-formed, disjoint, and true to the photos where those are at hand."""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path

import pytest

MANIFESTS = Path(__file__).parents[1] / "calibration" / "manifests"
NAMES = ("imagenet_det_749", "imagenet_val500", "coco_train126", "coco_val128")


def rows(name: str) -> list[dict[str, str]]:
    with (MANIFESTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_a_file_a_hash_and_a_licence(name: str) -> None:
    found = rows(name)
    assert len(found) == int(re.findall(r"\d+$", name)[0])
    assert all(re.fullmatch(r"[0-9a-f]{64}", row["sha256"]) and row["file"] and row["licence"] for row in found)


def test_every_manifest_is_described() -> None:
    assert {path.stem for path in MANIFESTS.iterdir()} == set(NAMES)
    text = (MANIFESTS.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.csv`" in text for name in NAMES)


def test_no_photo_is_in_two_manifests() -> None:
    hashes = [row["sha256"] for name in NAMES for row in rows(name)]
    assert len(hashes) == len(set(hashes))


@pytest.mark.parametrize("name", NAMES)
def test_the_photos_have_the_hashes_of_their_manifest(name: str, shared: Path) -> None:
    folder = shared / name.replace("749", "750")
    for row in rows(name):
        assert hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"], row["file"]
