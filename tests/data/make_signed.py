"""Write `data/signed`: a folder that OpenSSF's own tool signed. Run it where model-signing 1.1.1 is installed.

The private key is made anew and not kept, so that nothing else can be signed with it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing

FOLDER = Path(__file__).with_name("signed")
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


def main(temporary: Path) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "model" / "variants").mkdir(parents=True)
    (FOLDER / "model" / "manifest.json").write_bytes(b"{}\n")
    (FOLDER / "model" / "variants" / "engine.onnx").write_bytes(bytes(range(16)))
    for name, curve in CURVES.items():
        key = ec.generate_private_key(curve)
        private = temporary / f"{name}.pem"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (FOLDER / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(
            hashing.Config().set_ignored_paths(paths=["model.sig"])
        ).sign(FOLDER / "model", FOLDER / f"{name}.sig")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
