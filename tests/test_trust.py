"""Who made a bundle: signatures in both directions, trusted keys, releases, and what a changed byte does."""

from __future__ import annotations

import base64
import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle, Variant
from edgeopt.bundle.reading import SIGNATURE_NAME, UNSIGNED
from edgeopt.cli import main
from edgeopt.errors import BundleError, StorageError
from edgeopt.files import sha256
from edgeopt.runtime import load
from edgeopt.trust import keys
from edgeopt.trust.keys import PrivateKey, read_private, read_public
from edgeopt.trust.signature import sign, verify

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")

SIGNED = tiny.DATA / "signed"
MODEL_SIGNING = os.environ.get("EDGEOPT_MODEL_SIGNING", "")
"""Python of an environment with OpenSSF's model-signing, and pyOpenSSL, which model-signing 1.1.1 imports unasked."""


def write_key(folder: Path, name: str = "key", *, curve: object = None, passphrase: bytes | None = None) -> Path:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    encryption = (
        serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    )
    private = folder / f"{name}.pem"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    public = key.public_key()
    (folder / f"{name}.pub").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private


@pytest.fixture
def private(tmp_path: Path) -> PrivateKey:
    return read_private(write_key(tmp_path))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny.write(tmp_path / "x.edgeopt")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: PrivateKey) -> Path:
    """The folder of trusted keys of a device, with the public half of `private`."""
    folder = tmp_path / "trusted"
    folder.mkdir(mode=0o755)
    (folder / "maker.pub").write_bytes((tmp_path / "key.pub").read_bytes())
    monkeypatch.setenv("EDGEOPT_TRUSTED", str(folder))
    monkeypatch.setenv("EDGEOPT_STATE", str(tmp_path / "state"))
    return folder


# The format


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_signatures_of_openssf_model_signing_are_read(curve: str) -> None:
    """Written by model-signing 1.1.1 (data/make_signed.py)."""
    files, signer = verify(
        (SIGNED / f"{curve}.sig").read_bytes(), [read_public(SIGNED / f"{curve}.pub")], origin="model.sig"
    )
    assert signer.origin.endswith(f"{curve}.pub")
    model = SIGNED / "model"
    found = [file for file in model.rglob("*") if file.is_file()]
    assert files == {file.relative_to(model).as_posix(): sha256(file) for file in found}


@pytest.mark.skipif(not MODEL_SIGNING, reason="set EDGEOPT_MODEL_SIGNING to a Python that has model-signing")
def test_model_signing_verifies_what_edgeopt_signed(bundle: Bundle, private: PrivateKey, tmp_path: Path) -> None:
    bundle.sign(private)
    bundle.record("ort-fp32", tuned={"0123456789abcdef": {}})
    command = [MODEL_SIGNING, "-m", "model_signing", "verify", "key", bundle.path]
    command += ["--signature", bundle.path / SIGNATURE_NAME, "--public_key", tmp_path / "key.pub"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    good = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    engine = bundle.file("ort-fp32")
    engine.write_bytes(engine.read_bytes() + b"x")
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0


@pytest.mark.skipif(not MODEL_SIGNING, reason="set EDGEOPT_MODEL_SIGNING to a Python that has model-signing")
def test_a_device_opens_what_model_signing_signed(bundle: Bundle, device: Path, tmp_path: Path) -> None:
    signature = bundle.path / SIGNATURE_NAME
    command = [MODEL_SIGNING, "-m", "model_signing", "sign", "key", bundle.path]
    command += ["--private_key", tmp_path / "key.pem", "--signature", signature]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert Bundle.open(bundle.path).signer.origin == str(device / "maker.pub")
    Bundle.open(bundle.path).record("ort-fp32", tuned={"0123456789abcdef": {}})
    load(bundle.path).close()
    engine = bundle.file("ort-fp32")
    engine.write_bytes(bytes([engine.read_bytes()[0] ^ 1]) + engine.read_bytes()[1:])
    with pytest.raises(BundleError, match="was changed"):
        load(bundle.path)


def test_the_statement_names_every_file_as_in_toto_does(bundle: Bundle, private: PrivateKey) -> None:
    bundle.sign(private)
    signature = json.loads((bundle.path / SIGNATURE_NAME).read_bytes())
    statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert statement["subject"][0]["name"] == "x.edgeopt"
    named = {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}
    assert named == {name: sha256(bundle.path / name) for name in ("manifest.json", *bundle.manifest.files)}
    assert statement["predicate"]["serialization"]["ignore_paths"] == sorted(UNSIGNED)


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_every_curve_signs(curve: str, tmp_path: Path) -> None:
    key = read_private(write_key(tmp_path, curve=getattr(ec, curve)()))
    text = sign("x", {"a": "0" * 64}, key, beside=UNSIGNED)
    assert verify(text, [key.public], "x")[0] == {"a": "0" * 64}


def test_a_signature_by_somebody_else_is_refused(private: PrivateKey, tmp_path: Path) -> None:
    text = sign("x", {"a": "0" * 64}, private, beside=())
    other = read_private(write_key(tmp_path, "other")).public
    with pytest.raises(BundleError, match=r"none of the trusted keys \(.*other\.pem\)"):
        verify(text, [other], "x")
    assert verify(text, [other, private.public], "x")[1] == private.public


@pytest.mark.parametrize("text", [b"", b"null", b"{}", b"\xff", b'{"mediaType": "x"}', b"[" * 100_000])
def test_what_is_no_signature_is_refused(text: bytes, private: PrivateKey) -> None:
    with pytest.raises(BundleError, match="is not a signature in the model-signing format"):
        verify(text, [private.public], "x")


# A device that trusts keys


def test_without_trusted_keys_any_bundle_is_opened(bundle: Bundle, private: PrivateKey) -> None:
    assert Bundle.open(bundle.path).signer is None
    bundle.sign(private)
    assert Bundle.open(bundle.path).signer is None


def test_a_device_opens_what_a_trusted_key_signed_and_nothing_else(
    bundle: Bundle, private: PrivateKey, device: Path
) -> None:
    with pytest.raises(BundleError, match=r"is not signed, and only bundles signed by a trusted key .*maker\.pub"):
        load(bundle.path)
    bundle.sign(private)
    with load(bundle.path) as predictor:
        assert predictor.choice is not None
    assert Bundle.open(bundle.path).signer.origin == str(device / "maker.pub")


def test_every_changed_byte_of_a_signed_bundle_is_found_before_anything_is_loaded(
    bundle: Bundle, private: PrivateKey, device: Path
) -> None:
    """Every 97th byte, and all at the beginning; `benchmarks.flipped_bytes` changes each."""
    bundle.sign(private)
    files = [bundle.path / name for name in ("manifest.json", SIGNATURE_NAME, *bundle.manifest.files)]
    unnoticed = []
    for file in files:
        content = file.read_bytes()
        for place in {*range(min(len(content), 300)), *range(0, len(content), 97)}:
            changed = bytearray(content)
            changed[place] ^= 1 << (place % 8)
            file.write_bytes(changed)
            try:
                Bundle.open(bundle.path)
                unnoticed.append((file.name, place))
            except BundleError:
                pass
        file.write_bytes(content)
    assert Bundle.open(bundle.path).signer is not None
    assert unnoticed == []


def test_measurements_break_no_signature(bundle: Bundle, private: PrivateKey, device: Path) -> None:
    signed = bundle.sign(private)
    measured = signed.record("ort-fp32", tuned={"0123456789abcdef": {}})
    assert Bundle.open(bundle.path).variant("ort-fp32").tuned == {"0123456789abcdef": {}}
    assert Bundle.open(bundle.path) == Bundle.open(measured.path)
    (bundle.path / "measured.json").write_text("{")
    with pytest.raises(BundleError, match=r"measured\.json holds no measurements .* Remove it"):
        Bundle.open(bundle.path)


def test_what_a_signature_covers_is_not_changed_in_silence(bundle: Bundle, private: PrivateKey) -> None:
    signed = bundle.sign(private)
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match=r"is signed, and a result that its signature covers would break"):
        signed.record("ort-fp32", verdict="seen")
    with pytest.raises(BundleError, match=r"is signed, and another variant would break"):
        signed.add(Variant(name="more", target="ort", precision="int8", file="variants/more/x.onnx"), b"x")
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_measurements_of_an_older_bundle_do_not_count(bundle: Bundle, tmp_path: Path) -> None:
    """A new bundle is often copied over the old one, which leaves files that only the old one had."""
    bundle.record("ort-fp32", tuned={"0123456789abcdef": {}})
    old = (bundle.path / "measured.json").read_bytes()
    other = tiny.write(bundle.path, tiny.DETECTOR)
    (bundle.path / "measured.json").write_bytes(old)
    assert Bundle.open(bundle.path) == other
    assert not other.variant("ort-fp32").tuned


def test_a_signed_bundle_with_one_file_more_or_less(bundle: Bundle, private: PrivateKey, device: Path) -> None:
    """A manifest and a signature of the same maker that do not belong together."""
    bundle.sign(private)
    signature = (bundle.path / SIGNATURE_NAME).read_bytes()
    again = tiny.write(bundle.path, tiny.DETECTOR)
    (again.path / SIGNATURE_NAME).write_bytes(signature)
    with pytest.raises(BundleError, match=r"is not what was signed: .*manifest\.json.* changed"):
        Bundle.open(bundle.path)


def test_an_older_release_is_refused_once_a_newer_one_ran(bundle: Bundle, private: PrivateKey, device: Path) -> None:
    bundle.sign(private, release=7)
    Bundle.open(bundle.path)  # looking is not running
    bundle.sign(private, release=6)
    load(bundle.path).close()
    bundle.sign(private, release=7)
    load(bundle.path).close()
    bundle.sign(private, release=6)
    with pytest.raises(BundleError, match=r"is release 6 of 'tiny-classifier', and release 7 has run on this device"):
        load(bundle.path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": "b"}', b"\xff"])
def test_a_damaged_record_of_releases_opens_nothing(
    bundle: Bundle, private: PrivateKey, device: Path, tmp_path: Path, content: bytes
) -> None:
    bundle.sign(private, release=7)
    load(bundle.path).close()
    (tmp_path / "state" / "releases.json").write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read"):
        Bundle.open(bundle.path)


def test_a_folder_of_keys_that_trusts_nobody_opens_nothing(bundle: Bundle, device: Path) -> None:
    (device / "maker.pub").unlink()
    with pytest.raises(BundleError, match="holds no key"):
        Bundle.open(bundle.path)
    device.rmdir()
    with pytest.raises(StorageError, match="No bundle is opened without it"):
        Bundle.open(bundle.path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_keys_that_others_may_change_or_read_are_refused(
    bundle: Bundle, device: Path, tmp_path: Path, private: PrivateKey
) -> None:
    device.chmod(0o777)
    with pytest.raises(StorageError, match="other users may change"):
        Bundle.open(bundle.path)
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(StorageError, match=r"private key that other users may read. .* chmod 600"):
        read_private(tmp_path / "key.pem")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("what", ["folder", "key"])
def test_keys_of_another_user_are_refused(bundle: Bundle, private: PrivateKey, device: Path, what: str) -> None:
    """Who owns a folder or a key may open it to himself at any time, whatever its mode is now."""
    bundle.sign(private)
    os.chown(device if what == "folder" else device / "maker.pub", 12345, -1)
    with pytest.raises(StorageError, match="belongs to the user with number 12345, who may change it"):
        Bundle.open(bundle.path)


def test_a_folder_of_keys_that_cannot_be_looked_for_opens_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to nothing, or /etc/edgeopt closed to the service's user, is no device without keys."""
    monkeypatch.delenv("EDGEOPT_TRUSTED", raising=False)
    link = tmp_path / "etc" / "trusted"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "unmounted")
    monkeypatch.setattr(keys, "TRUSTED_FOLDER", link)
    with pytest.raises(StorageError, match="No bundle is opened without it"):
        Bundle.open(bundle.path)
    link.unlink()
    assert Bundle.open(bundle.path).signer is None

    def closed(path: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", closed)
        with pytest.raises(StorageError, match=r"cannot look for .*: Permission denied"):
            keys.trusted_keys()


# The commands


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_sign_and_verify(tmp_path: Path) -> None:
    bundle = tiny.write_golden(tmp_path / "x.edgeopt")
    key = write_key(tmp_path, passphrase=b"open sesame")
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("open sesame\n")
    code, text = run("sign", bundle.path, "--key", key)
    assert code == 16
    assert "--passphrase-file" in text.replace("\n", " ")
    code, text = run("sign", bundle.path, "--key", key, "--passphrase-file", secret, "--release", 3)
    assert code == 0, text
    assert "release 3" in text
    code, text = run("verify", bundle.path, "--public-key", tmp_path / "key.pub")
    assert code == 0, text
    assert "signed by the key" in text
    assert "release 3" in text
    write_key(tmp_path, "other")
    code, text = run("verify", bundle.path, "--public-key", tmp_path / "other.pub")
    assert code == 16
    assert "none of the trusted keys" in text.replace("\n", " ")


def test_what_is_no_key(bundle: Bundle, tmp_path: Path) -> None:
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    other = tmp_path / "rsa.pem"
    other.touch(mode=0o600)
    other.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert "P-256, P-384 or P-521" in run("sign", bundle.path, "--key", other)[1].replace("\n", " ")
    other.write_text("nonsense")
    assert "holds no private key" in run("sign", bundle.path, "--key", other)[1].replace("\n", " ")
    assert run("sign", bundle.path, "--key", tmp_path / "none")[0] == 17
