"""Change every byte of a signed bundle, one after the other, and count the changes that opening it does not notice.

    python -m benchmarks.flipped_bytes [BUNDLE] [--every N]

The bundle is copied and the copy signed with a new key, which alone is trusted, with a statement of provenance. Without
a BUNDLE it is the small one of the tests. ``measured.json`` is left out: it holds what devices
measure, and nobody signs it. One bit of each byte is changed; which one depends on its place. Writes
``results/flipped_bytes.json``, a row for each bundle.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.recorded import record
from edgeopt.bundle import MANIFEST_NAME, Bundle, write_bundle
from edgeopt.bundle.reading import PROVENANCE_NAME, SIGNATURE_NAME
from edgeopt.bundle.recorded import RECORDED_NAME
from edgeopt.config import Config, ModelConfig
from edgeopt.errors import EdgeoptError
from edgeopt.hardware import ThisMachine
from edgeopt.spec import replace
from edgeopt.trust.keys import PublicKey, read_private

RESULTS = Path(__file__).with_name("results") / "flipped_bytes.json"


def signed_copy(bundle: Path, folder: Path) -> tuple[Bundle, PublicKey]:
    shutil.copytree(bundle, folder / "copy.edgeopt", ignore=shutil.ignore_patterns(RECORDED_NAME))
    private = folder / "key.pem"
    private.touch(mode=0o600)
    private.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    key = read_private(private)
    return Bundle.open(folder / "copy.edgeopt").sign(key, builder="https://ci.example.com/edgeopt"), key.public


def small_bundle(folder: Path) -> Path:
    """Write the tests' bundle, engines in FP32 and INT8 for two targets with golden arrays, without its picture: 20 kB.

    The picture, a PNG of 60 kB, would take most of the time, and is one more file whose sha256 is compared.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import tiny

    recipe = Config(name="tiny", model=ModelConfig(source="tiny_classifier.onnx"))
    whole = tiny.write_golden(folder / "whole.edgeopt", recipe=recipe)
    variants = tuple(
        each if each.golden is None else replace(each, golden=replace(each.golden, picture=None, answers=None))
        for each in whole.manifest.variants
    )
    names = {each.file for each in variants}.union(*(each.golden.paths for each in variants if each.golden is not None))
    manifest = replace(whole.manifest, variants=variants)
    return write_bundle(folder / "tiny.edgeopt", manifest, {name: whole.path / name for name in names}).path


def unnoticed(bundle: Bundle, key: PublicKey, name: str, every: int) -> Iterator[bool]:
    """Tell for each changed byte of a file if the bundle was opened all the same."""
    file = bundle.path / name
    content = file.read_bytes()
    with file.open("r+b", buffering=0) as changed:
        for place in range(0, len(content), every):
            changed.seek(place)
            changed.write(bytes([content[place] ^ 1 << place % 8]))
            try:
                Bundle.open(bundle.path, keys=(key,))
                yield True
            except EdgeoptError:
                yield False
            changed.seek(place)
            changed.write(content[place : place + 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="default: the tests' small one")
    parser.add_argument("--every", type=int, default=1, help="change only every N-th byte of engines and arrays")
    arguments = parser.parse_args()
    start = time.monotonic()
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        original = arguments.bundle or small_bundle(Path(folder))
        bundle, key = signed_copy(original, Path(folder))
        for name in (MANIFEST_NAME, SIGNATURE_NAME, PROVENANCE_NAME, *bundle.manifest.files):
            every = arguments.every if name in bundle.manifest.files else 1
            opened = list(unnoticed(bundle, key, name, every))
            files[name] = {"changed": len(opened), "unnoticed": sum(opened)}
            print(f"{name}: {len(opened)} changed, {sum(opened)} unnoticed", flush=True)
        Bundle.open(bundle.path, keys=(key,))  # all of it is as it was
    result = {
        "bundle": original.name,
        "processor": ThisMachine().processor.cpu.model,
        "every": arguments.every,
        "changed": sum(each["changed"] for each in files.values()),
        "unnoticed": sum(each["unnoticed"] for each in files.values()),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "files": files,
    }
    record(RESULTS, result, ("bundle",))


if __name__ == "__main__":
    main()
