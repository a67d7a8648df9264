"""Who built a bundle and from what: SLSA's provenance, its signature, and silence on the machine."""

from __future__ import annotations

import base64
import getpass
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle
from edgeopt.bundle.reading import PROVENANCE_NAME, SIGNATURE_NAME
from edgeopt.cli import main
from edgeopt.config import Config, ModelConfig
from edgeopt.errors import BundleError
from edgeopt.files import sha256
from edgeopt.hardware import ThisMachine
from edgeopt.spec import replace
from edgeopt.trust import envelope
from edgeopt.trust.keys import PrivateKey, read_private
from edgeopt.trust.provenance import Provenance, attest, check_builder, verify

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")

BUILDER = "https://ci.example.com/edgeopt"
MODEL_SIGNING = os.environ.get("EDGEOPT_MODEL_SIGNING", "")
"""Python of an environment with OpenSSF's model-signing, which brings in-toto's own types."""


@pytest.fixture
def private(tmp_path: Path) -> PrivateKey:
    return write_key(tmp_path / "key.pem")


def write_key(path: Path) -> PrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return read_private(path)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny.write(
        tmp_path / "x.edgeopt",
        versions={"edgeopt": "0.1.0", "torch": "2.13.0+cpu"},
        datasets={"test": "ab" * 32, "train": "cd" * 32},
        sources={"model.onnx": "12" * 32},
        machine=ThisMachine().whole,
        build_key="ef" * 32,
        recipe=Config(name="x", model=ModelConfig(source="/home/somebody/secret/model.onnx")),
    )


def statement(bundle: Bundle) -> dict[str, Any]:
    signed = json.loads((bundle.path / PROVENANCE_NAME).read_bytes())
    found: dict[str, Any] = json.loads(base64.b64decode(signed["dsseEnvelope"]["payload"]))
    return found


def test_it_is_slsa_provenance_of_every_file(bundle: Bundle, private: PrivateKey) -> None:
    """Fields and their types as https://slsa.dev/spec/v1.0/provenance has them; those of build level 1 are there."""
    bundle.sign(private, builder=BUILDER)
    found = statement(bundle)
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    files = {each["name"]: each["digest"] for each in found["subject"]}
    assert files == {name: {"sha256": sha256(bundle.path / name)} for name in ("manifest.json", *bundle.manifest.files)}
    assert found["predicate"].keys() == {"buildDefinition", "runDetails"}
    build, run = found["predicate"]["buildDefinition"], found["predicate"]["runDetails"]
    assert build["buildType"] == "pkg:pypi/edgeopt#build/v1"
    assert build["internalParameters"] == {"buildKey": "ef" * 32}
    assert build["resolvedDependencies"] == [
        {"name": "model.onnx", "digest": {"sha256": "12" * 32}},
        {"name": "test images", "digest": {"edgeoptDataset": "ab" * 32}},
        {"name": "train images", "digest": {"edgeoptDataset": "cd" * 32}},
        {"uri": "pkg:pypi/edgeopt@0.1.0"},
        {"uri": "pkg:pypi/torch@2.13.0%2Bcpu"},
    ]
    assert run == {
        "builder": {"id": BUILDER, "version": {"edgeopt": "0.1.0"}},
        "metadata": {"finishedOn": "2026-11-22T12:00:00Z"},
    }


def test_the_recipe_is_named_by_a_digest_that_anyone_can_compute(bundle: Bundle, private: PrivateKey) -> None:
    bundle.sign(private, builder=BUILDER)
    recipe = json.loads((bundle.path / "manifest.json").read_bytes())["recipe"]
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    named = statement(bundle)["predicate"]["buildDefinition"]["externalParameters"]
    assert named == {"recipe": f"sha256:{sha256(text.encode())}"}


@pytest.mark.skipif(not MODEL_SIGNING, reason="set EDGEOPT_MODEL_SIGNING to a Python that has model-signing")
def test_in_totos_own_types_and_model_signing_accept_it(bundle: Bundle, private: PrivateKey, tmp_path: Path) -> None:
    """Strict about fields that SLSA does not have; `validate` also looks at what must be there."""
    bundle.sign(private, builder=BUILDER)
    (tmp_path / "statement.json").write_text(json.dumps(statement(bundle)))
    code = f"""
import json
from google.protobuf.json_format import Parse, ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement
text = open({str(tmp_path / "statement.json")!r}).read()
found = json.loads(text)
subjects = []
provenance = ParseDict(found["predicate"], provenance_pb2.Provenance(), ignore_unknown_fields=False)
assert provenance.run_details.builder.id == {BUILDER!r}
from in_toto_attestation.v1 import statement_pb2
proto = Parse(text, statement_pb2.Statement(), ignore_unknown_fields=False)
Statement.copy_from_pb(proto).validate()
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run([MODEL_SIGNING, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    command = [MODEL_SIGNING, "-m", "model_signing", "verify", "key", bundle.path]
    command += ["--signature", bundle.path / SIGNATURE_NAME, "--public_key", tmp_path / "key.pub"]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    stated = bundle.path / PROVENANCE_NAME
    stated.write_bytes(stated.read_bytes() + b" ")
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0


def test_it_holds_nothing_of_the_machine(bundle: Bundle, private: PrivateKey) -> None:
    bundle.sign(private, builder=BUILDER)
    text = json.dumps(statement(bundle))
    machine = ThisMachine().whole
    for secret in ("/home", "somebody", platform.node(), machine.system, machine.cpu.model, str(bundle.path.parent)):
        assert secret not in text
    assert f"/{getpass.getuser()}" not in text


def test_verify_shows_it_and_may_ask_for_a_builder(bundle: Bundle, private: PrivateKey, tmp_path: Path) -> None:
    runner, key = CliRunner(), str(tmp_path / "key.pem")
    signed = runner.invoke(main, ["sign", str(bundle.path), "--key", key, "--provenance", BUILDER])
    assert signed.exit_code == 0, signed.output
    command = ["verify", str(bundle.path), "--public-key", str(tmp_path / "key.pub"), "--builder"]
    shown = runner.invoke(main, [*command, BUILDER])
    for part in (
        f"built by {BUILDER}, 2026-11-22T12:00:00Z",
        "train images edgeoptDataset:cdcd",
        "pkg:pypi/torch@2.13",
    ):
        assert part in shown.output
    other = runner.invoke(main, [*command, "https://other.example"])
    assert other.exit_code == BundleError.exit_code
    assert f"this bundle was built by {BUILDER}, and https://other.example is asked for" in " ".join(
        other.output.split()
    )
    assert runner.invoke(main, ["sign", str(bundle.path), "--key", key]).exit_code == 0
    assert not (bundle.path / PROVENANCE_NAME).exists()
    without = runner.invoke(main, [*command, BUILDER])
    assert without.exit_code == BundleError.exit_code
    assert "nothing that a trusted key signed says" in " ".join(without.output.split())


def test_any_change_of_it_is_found_before_anything_is_loaded(bundle: Bundle, private: PrivateKey) -> None:
    """The signature covers it, too; without a signature it is nobody's."""
    bundle.sign(private, builder=BUILDER)
    keys = (private.public,)
    assert Bundle.open(bundle.path, keys=keys).provenance() is not None
    file = bundle.path / PROVENANCE_NAME
    content = file.read_bytes()
    for place in range(0, len(content), 53):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(BundleError, match=r"is not what was signed: provenance\.sigstore\.json changed"):
            Bundle.open(bundle.path, keys=keys)
    file.unlink()
    with pytest.raises(BundleError, match=r"is not what was signed: provenance\.sigstore\.json changed"):
        Bundle.open(bundle.path, keys=keys)
    file.write_bytes(content)
    (bundle.path / SIGNATURE_NAME).unlink()
    assert Bundle.open(bundle.path, keys=None).provenance() is None


def stated(**changes: Any) -> Provenance:
    """Provenance as another tool might have written it."""
    build = {"buildType": "https://x.example/t", "externalParameters": {"a": 1}, **changes}
    return msgspec.convert({"buildDefinition": build, "runDetails": {"builder": {"id": BUILDER}}}, Provenance)


def test_statements_of_other_files_kinds_and_signers_are_refused(private: PrivateKey, tmp_path: Path) -> None:
    files = {"a": "0" * 64, "b": "1" * 64}
    text = attest(files, stated(), private)
    assert verify(text, [private.public], files, "x").run_details.builder.id == BUILDER
    for other in ({"a": "0" * 64}, {**files, "c": "2" * 64}, {**files, "b": "2" * 64}):
        with pytest.raises(BundleError, match=r"x is about other files than these: [bc]\."):
            verify(text, [private.public], other, "x")
    with pytest.raises(BundleError, match="none of the trusted keys"):
        verify(text, [write_key(tmp_path / "other.pem").public], files, "x")
    for payload in (b"null", b"{}", b'{"_type": "https://in-toto.io/Statement/v1", "subject": []}'):
        with pytest.raises(BundleError, match="states no provenance"):
            verify(envelope.close(payload, private), [private.public], files, "x")


def test_what_is_of_another_build_than_the_bundle_is_refused(bundle: Bundle, private: PrivateKey) -> None:
    """The right files and the right signer, and yet not how edgeopt builds."""
    signed = bundle.sign(private, builder=BUILDER)
    found = signed.provenance()
    assert found is not None
    other = replace(signed.manifest, recipe=None)
    from edgeopt.bundle.provenance import check_provenance

    with pytest.raises(BundleError, match="names another recipe"):
        check_provenance(found, other, "x")
    with pytest.raises(BundleError, match=r"describes a build of type https://x\.example/t"):
        check_provenance(stated(), signed.manifest, "x")


@pytest.mark.parametrize("uri", ["", "me", "https://", "https://a b", "https://é", "https://a\n", "http://[1"])
def test_a_builder_is_named_by_a_uri(uri: str) -> None:
    with pytest.raises(BundleError, match="does not name a builder"):
        check_builder(uri)


def test_a_builder_without_secrets(bundle: Bundle, private: PrivateKey) -> None:
    with pytest.raises(BundleError, match="holds a password") as found:
        bundle.sign(private, builder="https://ci:hunter2@example.com")
    assert "hunter2" not in str(found.value)
    assert not bundle.is_signed


def test_a_bundle_that_does_not_know_its_recipe(tmp_path: Path, private: PrivateKey) -> None:
    with pytest.raises(BundleError, match="does not hold the recipe that it was built from"):
        tiny.write(tmp_path / "y.edgeopt").sign(private, builder=BUILDER)
