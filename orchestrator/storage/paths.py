"""Where everything of this user lies: sweeps, caches, the MLflow database, the local key."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

from trainables.errors import ConfigError, DataError
from trainables.models.files.weights import DEFAULT_HOME, HOME_VARIABLE

__all__ = [
    "HOME_VARIABLE",
    "PROJECT",
    "artifact_root",
    "hmac_key",
    "home",
    "is_sweep_name",
    "mlflow_uri",
    "store",
    "sweep_folder",
    "sweep_names",
]

PROJECT = Path(__file__).resolve().parents[2]
"""Where this code lies: the checkout, or the folder of installed packages."""
_SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def home() -> Path:
    """Returns the home folder, absolute, made if absent, private to the user.

    Raises:
        DataError: it cannot be made or written; names the variable that moves it.
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
    """Returns the root of everything content-addressed: images, activations, embeddings, adapters."""
    return home() / "store"


def is_sweep_name(name: str) -> bool:
    """Says whether a sweep can be called so: a plain folder name."""
    return _SWEEP_NAME.fullmatch(name) is not None


def sweep_folder(name: str) -> Path:
    """Returns the folder of a sweep, which need not exist.

    Raises:
        ConfigError: a name that is no plain folder name.
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
    """Returns `MLFLOW_TRACKING_URI`, else SQLite under the home; absolute, as Tune moves its workers."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def hmac_key() -> bytes:
    """Returns this home's 32 random bytes (mode 0600): the key under which image ids leave the machine."""
    path = home() / "hmac.key"
    if not path.exists():
        descriptor, aside = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(aside, path)  # fails if another process was first: then its key holds
        except FileExistsError:
            pass
        finally:
            os.unlink(aside)
    key = path.read_bytes()
    if len(key) != 32:
        raise DataError(f"{path}: holds {len(key)} bytes instead of 32; delete it and a new key is drawn")
    return key


def artifact_root() -> str:
    """Returns where the files of runs lie, unless a remote server says otherwise."""
    return (home() / "mlflow-artifacts").as_uri()
