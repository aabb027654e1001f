"""The storage of a sweep: a folder or bucket that all machines of a sweep can reach.

A file appears in the storage only when it is complete. The manifest of a folder lists its files with their
SHA-256, and is written last. A folder without a manifest is incomplete and is ignored. Keys equal the paths
below a home, such as `sweeps/NAME/trials/KEY/results` and `store/adapters/KEY`.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from orchestrator.storage.uri import StoragePlace, read_uri
from trainables.artifacts import MANIFEST, atomic_directory, file_sha256
from trainables.errors import ClusterError, DataError

# Imports inside functions: pyarrow loads only where a storage is used.

ATTEMPTS, PAUSE_SECONDS = 3, 0.5
BLOCK_BYTES = 8 * 2**20
MAX_THREADS = 16
CHECKS = "checks"
"""Folder for small files that test the storage. They are deleted after the test."""
PERMANENT = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|HTTP status 403"
)
"""Matches messages of the S3 client for errors that another attempt cannot fix."""
_HALF_WRITTEN = re.compile(r".+\.[0-9a-f]{16}\.tmp")
"""Matches the name of an incomplete file. Its writer is still writing it, or was killed."""
ResultT = TypeVar("ResultT")


class StorageError(ClusterError):
    """An error of the storage: it does not answer, is full, or denies access."""


def open_storage(uri: str) -> Storage:
    """Returns the storage at a URI, without connecting to it.

    Raises:
        ConfigError: the URI is invalid.
    """
    return Storage(read_uri(uri))


class Storage:
    """The files of a storage, by key. Thread-safe. Methods raise `StorageError` after a few failed tries."""

    def __init__(self, place: StoragePlace) -> None:
        self.place, self.uri = place, place.uri
        self._files: Any = place.open()

    def put_bytes(self, key: str, content: bytes) -> None:
        """Writes or replaces a small file, atomically."""
        self._patiently(f"write {key}", lambda: self._write(key, [content]))

    def get_bytes(self, key: str) -> bytes:
        """Returns the content of a small file.

        Raises:
            FileNotFoundError: the file does not exist.
        """

        def read() -> bytes:
            with self._files.open_input_stream(self._path(key)) as stream:
                return stream.read()

        return self._patiently(f"read {key}", read)

    def put_file(self, source: Path, key: str, *, sha256: str | None = None) -> str:
        """Uploads a file, and returns its SHA-256.

        Raises:
            DataError: the file does not have the given hash.
        """

        def copy() -> str:
            digest = hashlib.sha256()
            with source.open("rb") as file:
                self._write(key, _blocks(file.read, digest))
            return digest.hexdigest()

        found = self._patiently(f"write {key}", copy)
        if sha256 is not None and found != sha256:
            self.delete(key)
            raise DataError(f"{source}: the file has changed, so it is not uploaded to {self.uri}")
        return found

    def get_file(self, key: str, target: Path, *, sha256: str) -> None:
        """Downloads a file atomically, and checks its hash.

        Raises:
            FileNotFoundError: the file does not exist.
            DataError: the file in the storage is damaged or was changed.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")

        def copy() -> str:
            digest = hashlib.sha256()
            with self._files.open_input_stream(self._path(key)) as stream, aside.open("wb") as file:
                file.writelines(_blocks(stream.read, digest))
            return digest.hexdigest()

        try:
            if (found := self._patiently(f"read {key}", copy)) != sha256:
                raise DataError(
                    f"{self.uri}: {key} is damaged: its SHA-256 is {found[:16]}…, but that of the uploaded "
                    f"file was {sha256[:16]}…"
                )
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def put_folder(self, source: Path, key: str) -> dict[str, str]:
        """Uploads a folder, with its manifest last, and returns its files with their SHA-256.

        Raises:
            DataError: a local file differs from the folder's own manifest.
        """
        paths = {p.relative_to(source).as_posix(): p for p in sorted(source.rglob("*")) if p.is_file()}
        own = paths.pop(MANIFEST, None)
        known: dict[str, str] = json.loads(own.read_text())["files"] if own else {}
        hashes = at_once(
            lambda name: self.put_file(paths[name], f"{key}/{name}", sha256=known.get(name)), paths
        )
        if missing := known.keys() - hashes.keys():
            raise DataError(f"{source / min(missing)} is missing: the folder is not uploaded to {self.uri}")
        self.put_bytes(f"{key}/{MANIFEST}", json.dumps({"files": hashes}, indent=1).encode())
        return hashes

    def get_folder(self, key: str, target: Path) -> None:
        """Downloads a folder atomically, and checks every hash.

        Raises:
            FileNotFoundError: the folder does not exist, or its upload was not finished.
            DataError: a file in the storage is missing or damaged.
        """
        hashes = self.read_manifest(f"{key}/{MANIFEST}")
        with atomic_directory(target) as aside:
            self.get_files({name: (f"{key}/{name}", sha256) for name, sha256 in hashes.items()}, aside)

    def get_files(self, wanted: Mapping[str, tuple[str, str]], folder: Path) -> None:
        """Downloads the files `name → (key, SHA-256)` into a folder, several at a time.

        Raises:
            DataError: a file in the storage is missing or damaged.
        """

        def get(name: str) -> None:
            key, sha256 = wanted[name]
            try:
                self.get_file(key, folder / _inside(name), sha256=sha256)
            except FileNotFoundError as error:
                raise DataError(f"{self.uri}: {key} is missing, although it was uploaded") from error

        at_once(get, wanted)

    def read_manifest(self, key: str) -> dict[str, str]:
        """Returns the files that a manifest lists, with their SHA-256.

        Raises:
            FileNotFoundError: the manifest does not exist, so the upload was not finished.
            DataError: the manifest is damaged.
        """
        try:
            files = json.loads(self.get_bytes(key))["files"]
            return {str(name): str(sha256) for name, sha256 in files.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self.uri}: {key} is damaged") from error

    def exists(self, key: str) -> bool:
        """Returns whether a file or a folder with this key exists."""
        return self._info(key).type.name != "NotFound"

    def is_whole(self, key: str) -> bool:
        """Returns whether the upload of a folder was finished."""
        return self.exists(f"{key}/{MANIFEST}")

    def modified(self, key: str) -> float:
        """Returns the time when a file was written: seconds since the epoch, by the clock of the storage.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        info = self._info(key)
        if info.mtime_ns is None:
            raise FileNotFoundError(key)
        return info.mtime_ns / 1e9

    def names(self, key: str) -> list[str]:
        """Returns the sorted names in a folder, without incomplete files; [] if the folder does not exist."""
        # pyarrow loads only where a storage is used.
        from pyarrow import fs

        selector = fs.FileSelector(self._path(key), allow_not_found=True)
        found = self._patiently(f"list {key}", lambda: self._files.get_file_info(selector))
        names = sorted(info.base_name for info in found if info.base_name)
        return [name for name in names if not _HALF_WRITTEN.fullmatch(name)]

    def delete(self, key: str) -> None:
        """Deletes a file or a folder, if it exists. Deletes the manifest of a folder first."""

        def remove() -> None:
            kind = self._info(key).type.name
            try:
                if kind == "File":
                    self._files.delete_file(self._path(key))
                elif kind == "Directory":
                    if self.exists(f"{key}/{MANIFEST}"):
                        self._files.delete_file(self._path(f"{key}/{MANIFEST}"))
                    self._files.delete_dir(self._path(key))
            except FileNotFoundError:
                pass

        self._patiently(f"delete {key}", remove)

    def create(self, key: str, content: bytes) -> bool:
        """Writes a new file, or returns False if it exists. Atomic in a folder, but not in a bucket."""
        if self.place.kind != "folder":  # pyarrow offers no conditional write
            if self.exists(key):
                return False
            self.put_bytes(key, content)
            return True
        path = Path(self._path(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            aside.write_bytes(content)
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._explained(f"write {key}", error) from error
        finally:
            aside.unlink(missing_ok=True)
        return True

    def check(self) -> None:
        """Creates the folder if it is missing, then writes, lists, reads and deletes a file.

        Raises:
            StorageError: one of these steps fails; the message says what to do.
        """
        if self.place.kind == "folder":
            try:
                Path(self.place.path).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._explained("create the folder", error) from error
        key, content = f"{CHECKS}/{secrets.token_hex(8)}", secrets.token_bytes(64)
        self.put_bytes(key, content)
        try:
            found = self.get_bytes(key) if self.names(CHECKS) else None
        except FileNotFoundError:
            found = None
        if found != content:
            raise StorageError(
                f"storage {self.uri}: a test file was read back with other content; use another storage"
            )
        self.delete(key)

    def check_there(self) -> None:
        """Checks that the folder or bucket exists, because a missing one would look empty. Writes nothing.

        Raises:
            StorageError: the folder or bucket does not exist; the message says what to do.
        """
        is_folder, bucket = self.place.kind == "folder", self.place.path.partition("/")[0]
        top = self.place.path if is_folder else bucket
        found = self._patiently(f"look for {top}", lambda: self._files.get_file_info(top))
        if found.type.name != "Directory":
            what = "folder on this machine; mount it" if is_folder else f"bucket '{bucket}'; create it"
            raise StorageError(f"storage {self.uri}: there is no such {what}, or name another storage")

    def _path(self, key: str) -> str:
        return f"{self.place.path}/{key}"

    def _info(self, key: str) -> Any:
        return self._patiently(f"look for {key}", lambda: self._files.get_file_info(self._path(key)))

    def _write(self, key: str, blocks: Iterable[bytes]) -> None:
        """Writes a file atomically. A bucket shows it once it is closed; in a folder, it is renamed last."""
        path = self._path(key)
        is_folder = self.place.kind == "folder"
        aside = f"{path}.{secrets.token_hex(8)}.tmp" if is_folder else path
        if is_folder:
            if not os.path.isdir(self.place.path):  # never replace a lost mount by a folder
                raise NotADirectoryError(f"{self.place.path} does not exist")
            os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            stream = self._files.open_output_stream(aside)
            for block in blocks:
                stream.write(block)
            stream.close()
            if is_folder:
                os.replace(aside, path)
        except BaseException:
            if is_folder:
                Path(aside).unlink(missing_ok=True)
            raise

    def _patiently(self, what: str, call: Callable[[], ResultT]) -> ResultT:
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except FileNotFoundError:
                raise
            except OSError as error:
                if (
                    attempt + 1 == ATTEMPTS
                    or isinstance(error, PermissionError)
                    or PERMANENT.search(str(error))
                ):
                    raise self._explained(what, error) from error
                time.sleep(PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _explained(self, what: str, error: OSError) -> StorageError:
        """Returns an error that says what to do. The original message is left out: it may quote a key id."""
        said, bucket = str(error), self.place.path.partition("/")[0]
        if self.place.kind == "folder":
            reason = f"{error.strerror or said}; mount it, free disk space, or allow writing on this machine"
        elif re.search("NO_SUCH_BUCKET|[Bb]ucket.*(not found|does not exist)", said):
            reason = f"there is no bucket '{bucket}'; create it, or name another bucket"
        elif re.search("ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|403|[Aa]ccess [Dd]enied", said):
            reason = (
                "no permission; set credentials in the environment of this machine (AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, a profile or a role; gs: GOOGLE_APPLICATION_CREDENTIALS)"
            )
        elif re.search("301|PermanentRedirect|region", said):
            reason = "the bucket is in another region; add ?region=REGION"
        else:
            name = re.search("AWS Error ([A-Z_]+)", said)
            reason = (
                f"no correct answer ({name[1] if name else type(error).__name__}); check that it runs, "
                "and check its address (AWS_ENDPOINT_URL or ?endpoint_override=HOST:PORT)"
            )
        return StorageError(f"storage {self.uri}: cannot {what}: {reason}")


def _blocks(read: Callable[[int], bytes], digest: Any) -> Iterable[bytes]:
    while block := read(BLOCK_BYTES):
        digest.update(block)
        yield block


def at_once(work: Callable[[str], ResultT], names: Iterable[str]) -> dict[str, ResultT]:
    """Calls `work` for several names at a time, and returns name → result. The first exception ends it."""
    names = list(names)
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))


def _inside(name: str) -> str:
    """Returns a name from a manifest.

    Raises:
        DataError: the name is a path outside the folder.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"a manifest in the storage names {name!r}, a path outside its folder")
    return name


def differing(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Returns the names of the files that are missing in a folder or have another hash."""
    return [
        name
        for name, sha256 in hashes.items()
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256
    ]
