"""The paths of the user's files: sweeps, caches, the MLflow database, the local key."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from trainables.errors import ConfigError, DataError
from trainables.models.files.weights import DEFAULT_HOME
from trainables.models.files.weights import HOME_VARIABLE as HOME_VARIABLE

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder of installed packages."""
_SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def home() -> Path:
    """Returns the absolute path of the home folder. Creates a missing folder, private to the user.

    Raises:
        DataError: the folder is not writable. The message names the variable that selects another folder.
    """
    folder = _home()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=folder).close()  # a mount may be read-only despite its mode
    except OSError as error:
        raise DataError(
            f"home folder {folder}: is not writable ({error.strerror or error}). "
            f"Set {HOME_VARIABLE} to a writable folder, e.g. {HOME_VARIABLE}=/tmp/clip-orchestrator"
        ) from error
    return folder


def _home() -> Path:
    """Returns the absolute path of the home folder, which need not exist."""
    return Path(os.path.abspath(Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()))


def store() -> Path:
    """Returns the folder of the content-addressed files: images, activations, embeddings, adapters."""
    return home() / "store"


def is_sweep_name(name: str) -> bool:
    """Returns whether a text is a valid name for a sweep: a plain folder name."""
    return _SWEEP_NAME.fullmatch(name) is not None


def sweep_folder(name: str) -> Path:
    """Returns the folder of a sweep. The folder need not exist.

    Raises:
        ConfigError: the name is not a plain folder name.
    """
    if not is_sweep_name(name):
        raise ConfigError(
            f"sweep name '{name}': use 1 to 80 letters, digits, '.', '_' or '-'; start with a letter or digit"
        )
    return home() / "sweeps" / name


def sweep_names() -> list[str]:
    """Returns the names of all sweeps that have a ledger, from the oldest to the newest."""
    changed: dict[str, int] = {}
    for ledger in (home() / "sweeps").glob("*/ledger"):
        with suppress(FileNotFoundError):  # a driver that did not start has just deleted its folder
            changed[ledger.parent.name] = ledger.stat().st_ctime_ns
    return sorted(changed, key=lambda name: changed[name])


def mlflow_uri() -> str:
    """Returns the value of `MLFLOW_TRACKING_URI`, or the URI of a SQLite file in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{own_mlflow_file()}"


def own_mlflow_file() -> Path:
    """Returns the path of the SQLite file in the home folder. Neither of them need exist."""
    return _home() / "mlflow.db"


def hmac_key() -> bytes:
    """Returns the secret key (32 bytes, file mode 0600) of this home. It hashes the image ids in MLflow."""
    path = home() / "hmac.key"
    if not path.exists():
        descriptor, aside = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(aside, path)  # fails if another process made a key first; then that key is used
        except FileExistsError:
            pass
        finally:
            os.unlink(aside)
    key = path.read_bytes()
    if len(key) != 32:
        raise DataError(
            f"{path}: has {len(key)} bytes instead of 32; delete the file, then a new key is created"
        )
    return key


def artifact_root() -> str:
    """Returns the URI of the local folder for the files of MLflow runs. A remote server does not use it."""
    return (home() / "mlflow-artifacts").as_uri()
