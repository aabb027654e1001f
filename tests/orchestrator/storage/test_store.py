"""Files in a storage: a folder, and a real S3 interface on 127.0.0.1."""

import json
import os
import secrets
from pathlib import Path

import pytest
from s3_server import ENVIRONMENT, S3Server

from orchestrator.storage import store as storage_module
from orchestrator.storage.store import Storage, StorageError, open_storage
from orchestrator.storage.uri import read_uri
from trainables.artifacts import atomic_directory
from trainables.errors import ConfigError, DataError


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory):
    os.environ.update(ENVIRONMENT)
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.end()
    for name in ENVIRONMENT:
        del os.environ[name]


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        found = open_storage(str(tmp_path / "storage"))
    else:
        found = open_storage(request.getfixturevalue("s3").uri(secrets.token_hex(4)))
    found.check()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As everything in a store is written: with a manifest of its own."""
    with atomic_directory(tmp_path / "made") as aside:
        (aside / "deep" / "er").mkdir(parents=True)
        (aside / "deep" / "er" / "weights").write_bytes(bytes(range(256)) * 100)
        (aside / "about.json").write_text("{}")
    return tmp_path / "made"


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_comes_back_as_it_went(storage: Storage, folder: Path, tmp_path: Path):
    storage.put_folder(folder, "store/adapters/key")
    storage.get_folder("store/adapters/key", tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(folder)
    assert storage.is_whole("store/adapters/key")
    assert storage.names("store") == ["adapters"]
    assert [name for name in storage.names("checks")] == []


def test_a_folder_that_was_put_half_is_not_there(storage: Storage, folder: Path, tmp_path: Path, monkeypatch):
    put_bytes = storage.put_bytes
    monkeypatch.setattr(storage, "put_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.put_folder(folder, "half")
    assert storage.exists("half/about.json")
    assert not storage.is_whole("half")
    with pytest.raises(FileNotFoundError):
        storage.get_folder("half", tmp_path / "back")
    monkeypatch.setattr(storage, "put_bytes", put_bytes)
    storage.put_folder(folder, "half")
    storage.get_folder("half", tmp_path / "back")


def test_a_file_that_changed_in_the_storage_is_named_and_leaves_nothing(
    storage: Storage, folder: Path, tmp_path: Path
):
    storage.put_folder(folder, "key")
    storage.put_bytes("key/deep/er/weights", b"others")
    with pytest.raises(DataError, match="key/deep/er/weights is damaged"):
        storage.get_folder("key", tmp_path / "back")
    storage.delete("key/deep/er/weights")
    with pytest.raises(DataError, match="key/deep/er/weights is missing"):
        storage.get_folder("key", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert list(tmp_path.glob(".back*")) == []


def test_a_file_that_changed_here_is_not_put_there(storage: Storage, folder: Path):
    (folder / "about.json").write_text("changed")
    with pytest.raises(DataError, match=r"about\.json: the file has changed"):
        storage.put_folder(folder, "key")
    assert not storage.is_whole("key")


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_manifest_leads_nowhere_else(storage: Storage, tmp_path: Path, name: str):
    sha256 = storage.put_file(Path(__file__), f"key/{name.strip('./')}")
    storage.put_bytes("key/manifest.json", json.dumps({"files": {name: sha256}}).encode())
    with pytest.raises(DataError, match=r"damaged|missing|a path outside its folder"):
        storage.get_folder("key", tmp_path / "deep" / "back")
    assert not list(tmp_path.rglob("*outside*")) or storage.place.kind == "folder"


def test_what_is_deleted_is_gone_and_deleting_nothing_is_no_error(storage: Storage, folder: Path):
    storage.put_folder(folder, "sweeps/a/key")
    storage.put_bytes("sweeps/a/other", b"stays")
    storage.delete("sweeps/a/key")
    storage.delete("sweeps/a/key")
    assert storage.names("sweeps/a") == ["other"]


def test_create_gives_way_to_what_is_there(storage: Storage):
    assert storage.create("lease", b"one")
    assert not storage.create("lease", b"two")
    assert storage.get_bytes("lease") == b"one"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://host/folder", "unknown kind of storage; use a folder"),
        ("s3://", "no valid bucket name"),
        ("s3://key:secret@bucket/folder", "must not contain credentials"),
        ("s3://bucket/folder?endpoint=here", "no option 'endpoint'"),
        ("s3://bucket/x?endpoint_overide=here", "did you mean 'endpoint_override'"),
        ("", "no folder given"),
    ],
)
def test_a_uri_that_names_no_storage(uri: str, said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        read_uri(uri)
    assert "secret@" not in str(caught.value)


def test_the_endpoint_of_the_environment_is_part_of_what_nodes_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    place = read_uri("s3://bucket/folder/")
    assert place.uri == "s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http"
    assert read_uri(place.uri) == place


def test_folders_are_told_by_their_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert read_uri("kept").uri == read_uri(f"file://{tmp_path}/kept").uri == str(tmp_path / "kept")


def test_no_bucket_says_how_to_mend_it(s3: S3Server):
    with pytest.raises(StorageError, match="there is no bucket 'absent'; create it, or name another"):
        open_storage(s3.uri("x").replace("//bucket", "//absent")).check()
    with pytest.raises(StorageError, match="there is no such bucket 'absent'; create it, or name another"):
        open_storage(s3.uri("x").replace("//bucket", "//absent")).check_there()
    open_storage(s3.uri("nothing-yet")).check_there()


def test_a_store_that_is_not_there_is_said_in_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage_module, "PAUSE_SECONDS", 0.0)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="check that it runs, and check its address") as caught:
        open_storage("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http").check()
    assert "nobody-may-see" not in str(caught.value)


def test_no_permission_says_where_credentials_come_from(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    tries = []

    def refuse(*_):
        tries.append(1)
        raise OSError("AWS Error ACCESS_DENIED during PutObject operation: key AKIA0123 may not")

    monkeypatch.setattr(storage, "_write", refuse)
    if storage.place.kind == "s3":
        with pytest.raises(StorageError, match="no permission; set credentials in the environment") as caught:
            storage.put_bytes("x", b"")
        assert "AKIA" not in str(caught.value)
        assert len(tries) == 1  # another try would change nothing


def test_what_fails_for_a_moment_is_tried_again(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage_module, "PAUSE_SECONDS", 0.0)
    write, tries = storage._write, []

    def fail_twice(key, blocks):
        tries.append(1)
        if len(tries) < 3:
            raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation")
        write(key, blocks)

    monkeypatch.setattr(storage, "_write", fail_twice)
    storage.put_bytes("x", b"there")
    assert storage.get_bytes("x") == b"there"


def test_a_mount_that_went_away_does_not_become_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage_module, "PAUSE_SECONDS", 0.0)
    found = open_storage(str(tmp_path / "mount"))
    with pytest.raises(StorageError, match="mount it"):
        found.put_bytes("x", b"")
    assert not (tmp_path / "mount").exists()
