"""The user's files: sweeps, caches, the MLflow database, the local key."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

from trainables.errors import ConfigError, DataError
from trainables.models.files.weights import DEFAULT_HOME
from trainables.models.files.weights import HOME_VARIABLE as HOME_VARIABLE

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder of installed packages."""
_SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def home() -> Path:
    """Returns the absolute path of the home folder, which is created if missing, private to the user.

    Raises:
        DataError: the folder cannot be written; names the variable that sets another one.
    """
    folder = Path(os.path.abspath(Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=folder).close()  # permission bits do not tell: the mount may be read-only
    except OSError as error:
        raise DataError(
            f"home folder {folder}: cannot be written ({error.strerror or error}). "
            f"Set {HOME_VARIABLE} to a folder you may write to, e.g. {HOME_VARIABLE}=/tmp/clip-orchestrator"
        ) from error
    return folder


def store() -> Path:
    """Returns the folder of everything content-addressed: images, activations, embeddings, adapters."""
    return home() / "store"


def is_sweep_name(name: str) -> bool:
    """Whether this can be the name of a sweep: it is a plain folder name."""
    return _SWEEP_NAME.fullmatch(name) is not None


def sweep_folder(name: str) -> Path:
    """Returns the folder of a sweep, which need not exist.

    Raises:
        ConfigError: the name is not a plain folder name.
    """
    if not is_sweep_name(name):
        raise ConfigError(
            f"sweep name '{name}': use 1 to 80 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return home() / "sweeps" / name


def sweep_names() -> list[str]:
    """Returns the names of all sweeps that have a ledger, the newest last."""
    ledgers = (home() / "sweeps").glob("*/ledger")
    return [path.parent.name for path in sorted(ledgers, key=lambda path: path.stat().st_ctime_ns)]


def mlflow_uri() -> str:
    """Returns `MLFLOW_TRACKING_URI`; default: a SQLite file in the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def hmac_key() -> bytes:
    """Returns the 32 secret bytes of this home (a file of mode 0600), which hash the image ids in MLflow."""
    path = home() / "hmac.key"
    if not path.exists():
        descriptor, aside = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(aside, path)  # fails if another process was first, whose key is used
        except FileExistsError:
            pass
        finally:
            os.unlink(aside)
    key = path.read_bytes()
    if len(key) != 32:
        raise DataError(
            f"{path}: has {len(key)} bytes instead of 32; delete the file, and a new key is created"
        )
    return key


def artifact_root() -> str:
    """Returns the URI of the folder for files of MLflow runs; a remote server has its own."""
    return (home() / "mlflow-artifacts").as_uri()
