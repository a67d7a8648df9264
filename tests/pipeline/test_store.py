"""A store of results: whole objects or nothing, found by machines that share no folder, and one clear message each."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from edgeopt.errors import ConfigError, EdgeoptError, MissingExtraError, StorageError
from edgeopt.pipeline.store import Store
from edgeopt.pipeline.workspace import Made, Workspace, content_key

pytest.importorskip("fsspec", reason="fsspec is not installed: no store was tested")
NAME = f"train-{content_key('train', {})}.zip"


@pytest.fixture
def address() -> str:
    """A store that lives as long as this process."""
    return f"memory://{uuid.uuid4().hex}"


def on_machine(folder: Path, address: str) -> Workspace:
    return Workspace(folder, shared=True, store=Store(address))


def write(text: str):
    def make(folder: Path, scratch: Path) -> Made:
        (folder / "weights.bin").write_text(text)
        return Made(f"wrote {text}")

    return make


def refuse(folder: Path, scratch: Path) -> Made:
    pytest.fail("made again")


def test_what_one_machine_made_another_finds(tmp_path: Path, address: str) -> None:
    first = on_machine(tmp_path / "one", address).produce("train", {}, write("weights"))
    found = on_machine(tmp_path / "two", address).produce("train", {}, refuse)
    assert (first.reused, found.reused) == (False, True)
    assert found.file("weights.bin").read_text() == "weights"
    assert found.summary == "wrote weights"
    assert [path.name for path in (tmp_path / "two").iterdir()] == [found.folder.name], "nothing is left over"


def test_a_folder_is_brought_with_all_that_is_in_it(tmp_path: Path, address: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "variants" / "fp32").mkdir(parents=True)
    (here / "manifest.json").write_text("{}")
    (here / "variants" / "fp32" / "engine.onnx").write_bytes(bytes(range(256)) * 9000)
    Store(address).put(NAME, here)
    assert Store(address).get(NAME, there)
    assert contents(there) == contents(here)
    assert not Store(address).get("train-none.zip", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_who_races_writes_the_same_bytes(tmp_path: Path) -> None:
    objects = []
    for machine in ("one", "two"):
        on_machine(tmp_path / machine, f"file://{tmp_path}/{machine}-store").produce("train", {}, write("weights"))
        objects.append((tmp_path / f"{machine}-store" / NAME).read_bytes())
    assert objects[0] == objects[1]


def test_what_was_made_before_there_was_a_store_is_put_there(tmp_path: Path, address: str) -> None:
    Workspace(tmp_path / "one", shared=True).produce("train", {}, write("weights"))
    on_machine(tmp_path / "one", address).produce("train", {}, refuse)
    assert on_machine(tmp_path / "two", address).produce("train", {}, refuse).reused


def test_an_upload_that_was_cut_short_counts_as_nothing(tmp_path: Path, caplog) -> None:
    store = Store(f"file://{tmp_path}/store")
    on_machine(tmp_path / "one", store.url).produce("train", {}, write("weights"))
    path = tmp_path / "store" / NAME
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not store.has(NAME)
        assert not store.get(NAME, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    with caplog.at_level(logging.WARNING):
        again = on_machine(tmp_path / "two", store.url).produce("train", {}, write("weights"))
    assert not again.reused
    assert "was cut short. It is made anew" in caplog.text
    assert path.read_bytes() == whole
    path.write_bytes(whole[:9])
    on_machine(tmp_path / "one", store.url).produce("train", {}, refuse)
    assert path.read_bytes() == whole, "who has it puts it there"


def test_a_damaged_object_is_made_anew(tmp_path: Path) -> None:
    on_machine(tmp_path / "one", f"file://{tmp_path}/store").produce("train", {}, write("weights"))
    path = tmp_path / "store" / NAME
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"weights", b"Weights", 1))
    again = on_machine(tmp_path / "two", f"file://{tmp_path}/store").produce("train", {}, write("weights"))
    assert not again.reused
    assert path.read_bytes() == whole


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot kill by a signal: no upload was cut short")
def test_a_worker_killed_in_an_upload_leaves_nothing_that_counts(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from pathlib import Path
        from fsspec.implementations.local import LocalFileSystem
        from edgeopt.pipeline.store import Store
        from edgeopt.pipeline.workspace import Made, Workspace

        def put_file(self, local, remote, **_):
            Path(remote).parent.mkdir(exist_ok=True)
            content = Path(local).read_bytes()
            Path(remote).write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        def make(folder, scratch):
            (folder / "weights.bin").write_text("weights")
            return Made("wrote weights")

        LocalFileSystem.put_file = put_file
        Workspace(Path(sys.argv[1]), shared=True, store=Store(sys.argv[2])).produce("train", {}, make)
    """
    url = f"file://{tmp_path}/store"
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "one"), url]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    assert (tmp_path / "store" / NAME).exists()
    assert not Store(url).has(NAME)
    assert not on_machine(tmp_path / "two", url).produce("train", {}, write("weights")).reused
    assert on_machine(tmp_path / "one", url).produce("train", {}, refuse).reused, "what was made is not lost"
    with Workspace(tmp_path / "one").held():
        assert not list((tmp_path / "one").glob("*.tmp")), "what the upload needed is cleared away"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/shared/results", "has no protocol, as s3://bucket/folder has one"),
        ("s3://key:secret@bucket/folder", "holds a password, which a file should not"),
        ("s4://bucket", "Protocol not known: s4. Write an address that fsspec knows"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Store(url)
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("package", "url"), [("fsspec", "memory://x"), ("s3fs", "s3://bucket/x")])
def test_a_package_that_is_not_there_is_named(package: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}' .*pip install 'edgeopt\[store\]'"):
        Store(url)


def test_a_store_that_refuses_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StorageError, match=r"cannot write the store file://.*store: .*[^.]\. Check"):
        Store(f"file://{tmp_path}/store").check()


@pytest.fixture(scope="module")
def s3():
    """A server of S3's protocol, on this machine."""
    moto = pytest.importorskip("moto.server", reason="moto's server is not installed: S3 was not tested")
    pytest.importorskip("s3fs", reason="s3fs is not installed: S3 was not tested")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    import boto3

    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_ENDPOINT_URL", s3)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget()
    name = f"sweeps-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield name
    forget()


def forget() -> None:
    """Let s3fs read the environment again."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_keeps_results_whole(tmp_path: Path, bucket: str) -> None:
    import boto3

    url = f"s3://{bucket}/digits"
    Store(url).check()
    on_machine(tmp_path / "one", url).produce("train", {}, write("weights"))
    found = on_machine(tmp_path / "two", url).produce("train", {}, refuse)
    assert found.file("weights.bin").read_text() == "weights"
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert {each["Key"] for each in listed} == {f"digits/{NAME}", "digits/edgeopt-store"}


@pytest.mark.slow
def test_an_object_of_several_parts_is_whole_on_s3_too(tmp_path: Path, bucket: str) -> None:
    url, large = f"s3://{bucket}/digits", tmp_path / "large"
    large.mkdir()
    (large / "weights.bin").write_bytes(os.urandom(120 << 20))
    Store(url).put("train-large.zip", large)
    assert Store(url).has("train-large.zip")
    assert Store(url).get("train-large.zip", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(large)


def test_an_upload_to_s3_that_is_not_completed_is_not_there(tmp_path: Path, bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    upload = client.create_multipart_upload(Bucket=bucket, Key=f"digits/{NAME}")["UploadId"]
    client.upload_part(Bucket=bucket, Key=f"digits/{NAME}", UploadId=upload, PartNumber=1, Body=b"x" * (5 << 20))
    assert not Store(f"s3://{bucket}/digits").has(NAME)
    assert not on_machine(tmp_path, f"s3://{bucket}/digits").produce("train", {}, write("weights")).reused
    assert Store(f"s3://{bucket}/digits").has(NAME)


def test_a_bucket_that_is_not_there_is_said(bucket: str) -> None:
    assert "Make the bucket, or mend the address" in refusal(f"s3://{bucket}-missing/digits")


def test_missing_credentials_are_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Give credentials as the AWS tools read them" in refusal(f"s3://{bucket}/digits")


def test_a_server_that_does_not_answer_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "Check the address and the network" in refusal(f"s3://{bucket}/digits")


def refusal(url: str) -> str:
    """Return the one message of a store that cannot be used."""
    with pytest.raises(EdgeoptError) as raised:
        Store(url).check()
    assert isinstance(raised.value, StorageError)
    message = str(raised.value)
    assert message.startswith(f"cannot write the store {url}: ")
    assert not message.endswith(".")
    assert ".." not in message
    return message
