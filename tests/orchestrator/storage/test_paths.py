import stat
from pathlib import Path

import pytest

from orchestrator.storage import paths
from trainables.errors import ConfigError, DataError


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def test_everything_lies_under_the_home_by_absolute_paths(own_home: Path):
    assert paths.home() == own_home
    assert paths.store() == own_home / "store"
    assert paths.sweep_folder("demo-1") == own_home / "sweeps" / "demo-1"
    assert paths.mlflow_uri() == f"sqlite:///{own_home}/mlflow.db"
    assert paths.mlflow_uri().startswith("sqlite:////")  # four slashes: absolute


def test_a_relative_home_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", "here")
    assert paths.home() == tmp_path / "here"


def test_an_mlflow_server_named_by_the_user_wins(own_home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5999")
    assert paths.mlflow_uri() == "http://127.0.0.1:5999"


def test_an_unwritable_home_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DataError, match="CLIP_ORCHESTRATOR_HOME"):
        paths.home()


@pytest.mark.parametrize("name", ["", "..", "../other", "a/b", "-flag", "a b", "x" * 81])
def test_a_sweep_name_cannot_leave_the_home(own_home: Path, name: str):
    with pytest.raises(ConfigError, match="sweep name"):
        paths.sweep_folder(name)


def test_the_key_is_private_random_and_stays(own_home: Path):
    key = paths.hmac_key()
    assert len(key) == 32
    assert paths.hmac_key() == key
    path = own_home / "hmac.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    assert paths.hmac_key() != key
    assert [file.name for file in own_home.iterdir()] == ["hmac.key"]  # no temporary file is left
