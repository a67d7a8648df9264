"""Keep finished folders as whole objects where many machines reach them: in S3, or whatever else fsspec opens.

An object is a zip file, not compressed, under the key of what is in it. Its table of contents stands at its end, and
each file in it has a checksum: an upload that was cut short does not open, and counts as nothing. Who races to write an
object writes the same. Credentials are the library's own affair (for S3 the environment, or ``~/.aws``).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgeopt.errors import ConfigError, MissingExtraError, StorageError, requires_extra, storage_errors

_LOG = logging.getLogger(__name__)
_MARK = "edgeopt-store"
"""Name of an object that `Store.check` writes."""
_END = b"PK\x05\x06"
_END_BYTES = 22
"""The last record of a zip file without a comment, and its length (APPNOTE.TXT 4.3.16)."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold: equal folders make equal objects."""
_LOCAL = {"file": {"auto_mkdir": True}}
"""Options by protocol, for file systems that do not make folders as they are needed."""


class Store:
    """Objects below an address, as ``s3://bucket/sweeps``.

    Args:
        url: the address, as fsspec reads it.

    Raises:
        ConfigError: it is no address, holds a password, or is of a kind that fsspec does not know.
        MissingExtraError: fsspec is not installed, or its library for this kind of address.
        StorageError: it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol, separator, _ = url.partition("://")
        if not separator:
            raise ConfigError(
                f"the store '{url}' has no protocol, as s3://bucket/folder has one. Write it so; a folder that all "
                "machines share is not a store: name it with --work"
            )
        if urlsplit(url).password is not None:
            raise ConfigError(
                f"the address of the {protocol} store holds a password, which a file should not. Remove it, and give "
                "it as the library of this kind of address reads it, as the environment"
            )
        fsspec: Any = requires_extra("fsspec", "store")
        if protocol == "s3":
            requires_extra("s3fs", "store")
        with self._reached("open"):
            try:
                self._files, self._root = fsspec.url_to_fs(self.url, **_LOCAL.get(protocol, {}))
            except ImportError as error:
                raise MissingExtraError(f"cannot open the store {self.url}: {_sentence(error)}") from error
            except ValueError as error:
                raise ConfigError(
                    f"cannot open the store {self.url}: {_sentence(error)}. Write an address that fsspec knows, as "
                    "s3://bucket/folder"
                ) from error

    def check(self) -> None:
        """Write a small object, so that what is wrong shows before there is a result to lose.

        Raises:
            StorageError: the bucket is not there, credentials are missing or do not suffice, or nobody answers.
        """
        with self._reached("write"):
            self._files.pipe_file(self._path(_MARK), b"1")

    def has(self, name: str) -> bool:
        """Return True if there is an object whose upload was not cut short.

        Raises:
            StorageError: the store cannot be read.
        """
        with self._reached("read"):
            try:
                end: bytes = self._files.cat_file(self._path(name), start=-_END_BYTES)
            except FileNotFoundError:
                return False
        return len(end) == _END_BYTES and end.startswith(_END)

    def put(self, name: str, folder: Path) -> None:
        """Write a folder's files as an object; one that is there is replaced.

        Raises:
            StorageError: the store refused, or the disk did.
        """
        with _beside(folder) as scratch:
            packed = scratch / "packed.zip"
            with storage_errors(packed):
                _pack(folder, packed)
            with self._reached("write"):
                self._files.put_file(str(packed), self._path(name))

    def get(self, name: str, folder: Path) -> bool:
        """Make a folder of an object, which replaces one that is there in the end; False where there is no object.

        Raises:
            StorageError: the store cannot be read, or the disk refused.
        """
        with _beside(folder) as scratch:
            packed, whole = scratch / "packed.zip", scratch / folder.name
            with self._reached("read"), storage_errors(packed):  # inner: the disk here, which may be full
                try:
                    self._files.get_file(self._path(name), str(packed))
                except FileNotFoundError:
                    return False
            try:
                with storage_errors(folder), zipfile.ZipFile(packed) as archive:
                    archive.extractall(whole)
            except zipfile.BadZipFile:
                _LOG.warning("%s in the store %s is damaged, or was cut short. It is made anew", name, self.url)
                return False
            with storage_errors(folder):
                shutil.rmtree(folder, ignore_errors=True)
                whole.rename(folder)
        return True

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _reached(self, doing: str) -> Iterator[None]:
        """Turn the errors of any library behind fsspec, which have no base class, into ours."""
        try:
            yield
        except (ConfigError, MissingExtraError, StorageError):
            raise
        except Exception as error:
            raise StorageError(f"cannot {doing} the store {self.url}: {_sentence(error)}. {_advice(error)}") from error


def _advice(error: Exception) -> str:
    if "Credentials" in type(error).__name__:
        return (
            "Give credentials as the AWS tools read them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws, on "
            "every machine"
        )
    if isinstance(error, PermissionError):
        return "Give credentials that may read and write there"
    if isinstance(error, FileNotFoundError):
        return "Make the bucket, or mend the address"
    return "Check the address and the network; AWS_ENDPOINT_URL names a server other than Amazon's"


def _sentence(error: Exception) -> str:
    return str(error).rstrip(". \n") or type(error).__name__


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Give a scratch folder on the same disk; one of a killed process is cleared away with its work folder's others."""
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent)
    with scratch as path:
        yield Path(path)


def _pack(folder: Path, packed: Path) -> None:
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=_EPOCH)
            member.file_size = path.stat().st_size  # zipfile makes room for one of more than 4 GB
            with path.open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
