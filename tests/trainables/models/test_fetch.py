"""Weights of the Hub's cache: found without a network, and held against the hashes they are stored under."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from trainables.errors import ConfigError, DataError, WeightsUnavailable
from trainables.models.availability import availability
from trainables.models.fetch import fetch
from trainables.models.registry import ENCODERS

NAME = "openai/clip-vit-base-patch32"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the Hub's client lays it out, with one encoder at its pinned revision; returns the file."""
    root = tmp_path / "models--openai--clip-vit-base-patch32"
    snapshot = root / "snapshots" / str(ENCODERS[NAME].revision)
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    content = save({"logit_scale": torch.tensor(1.0)})
    blob = root / "blobs" / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    (snapshot / "model.safetensors").symlink_to(blob)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return blob


def test_what_is_cached_is_found_and_checked(cached: Path) -> None:
    assert availability(NAME, ENCODERS[NAME]).status == "in cache"
    assert (fetch(NAME, ENCODERS[NAME], revision=None) / "config.json").is_file()
    cached.write_bytes(cached.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"model\.safetensors: is not the file of SHA-256 .*fetch it again"):
        fetch(NAME, ENCODERS[NAME], revision=None)


def test_another_revision_is_another_file(cached: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="not in the Hugging Face cache and not reachable"):
        fetch(NAME, ENCODERS[NAME], revision="0" * 40)
    other = "openai/clip-vit-base-patch16"
    here = availability(other, ENCODERS[other])
    assert (here.status, here.reason) == ("unavailable", "not in the Hub's cache on this machine")
    assert here.steps == (f"where there is a network run 'python -m orchestrator models fetch {other}'",)


def test_pickles_only_and_unpinned_are_said(cached: Path, home: Path) -> None:
    with pytest.raises(ConfigError, match="no revision is pinned; add --revision with a commit of https"):
        fetch(
            "flaviagiammarino/pubmed-clip-vit-base-patch32",
            ENCODERS["flaviagiammarino/pubmed-clip-vit-base-patch32"],
            revision=None,
        )
    with pytest.raises(ConfigError, match="is not on the Hub as safetensors; get chexpert_resnet50"):
        fetch("gloria", ENCODERS["gloria"], revision=None)
