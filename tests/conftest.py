"""Fixtures that several packages share: a private home, the real X-rays, a local context."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from trainables.context import LocalContext

PROJECT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, when the first test of this process loads it
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # threads that wait for each other cost more than they bring here


@pytest.fixture(scope="session", autouse=True)
def rays_apart() -> Iterator[None]:
    """Keeps the tests and their Rays from any other Ray, and leaves the address of one that has ended.

    What looks for an address that nobody named finds that one, and fails.
    """
    with (
        TemporaryDirectory(prefix="rt-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)  # short, as a socket's path has to be
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        left = Path(folder) / "ray" / "ray_current_cluster"
        left.parent.mkdir()
        left.write_text("127.0.0.1:1")
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for the orchestrator, gone after the test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(folder))
    return folder


def shared_data(name: str, variable: str) -> Path:
    """Returns a folder of real data beside the project, or skips the test where it is absent."""
    root = Path(os.environ.get(variable, PROJECT.parent / "shared" / "data" / name))
    if not root.is_dir():
        pytest.skip(f"no {name} at {root}; set {variable}")
    return root


@pytest.fixture(scope="session")
def xray3_root() -> Path:
    """1,116 real chest X-rays in the layout of COVID-QU-Ex; they are never part of the project."""
    return shared_data("xray3", "XRAY3_ROOT")


@pytest.fixture(scope="session")
def pneumoniamnist_root() -> Path:
    """PneumoniaMNIST at 28 px; it is never part of the project."""
    return shared_data("pneumoniamnist", "PNEUMONIAMNIST_ROOT")


@pytest.fixture(scope="session")
def nih_mini_root() -> Path:
    """1,604 images of NIH ChestX-ray14 in its layout; they are never part of the project."""
    return shared_data("nih_mini", "NIH_MINI_ROOT")


@pytest.fixture(scope="session")
def tb_mini_root() -> Path:
    """Four images in the layout of TBX11K; they are never part of the project."""
    return shared_data("tb_mini", "TB_MINI_ROOT")


@pytest.fixture(scope="session")
def dicom_mini_root() -> Path:
    """Twenty DICOM objects with known means; they are never part of the project."""
    return shared_data("dicom_mini", "DICOM_MINI_ROOT")


@pytest.fixture(scope="session")
def odd_images_root() -> Path:
    """Nine tiny images that other programs read wrongly; they are never part of the project."""
    return shared_data("odd_images", "ODD_IMAGES_ROOT")


@pytest.fixture
def context(tmp_path: Path) -> LocalContext:
    """A context without Ray, with its own store."""
    (tmp_path / "run").mkdir()
    return LocalContext(workdir=tmp_path / "run", store=tmp_path / "store")


@pytest.fixture(scope="session")
def reports_mini_root() -> Path:
    """234 real chest X-rays with case descriptions; they are never part of the project."""
    return shared_data("reports_mini", "REPORTS_MINI_ROOT")
