"""Weights of the Hub's cache: found without a network, and held against the hashes they are stored under."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from trainables.config import EncoderConfig, TrialConfig
from trainables.errors import ConfigError, DataError, WeightsUnavailable
from trainables.models.catalogue.availability import availability
from trainables.models.catalogue.registry import (
    ENCODERS,
    has_known_weights,
    hub_checkpoint,
    model_fingerprint,
    preprocessing_of,
)
from trainables.models.files.fetch import fetch
from trainables.shell import command

NAME = "openai/clip-vit-base-patch32"


PUBMED = "flaviagiammarino/pubmed-clip-vit-base-patch32"
ONE, OTHER = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's client, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(hub: Path, name: str, commit: str, **files: str) -> Path:
    """Puts an encoder at a commit into the cache, as the Hub's client lays it out; returns its weights."""
    root = hub / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir(exist_ok=True)
    content = save({"logit_scale": torch.tensor(float(int(commit, 16) % 7))})
    blob = root / "blobs" / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    (snapshot / "model.safetensors").symlink_to(blob)
    for file, text in {"config": "{}", **files}.items():
        (snapshot / f"{file}.json").write_text(text)
    return blob


@pytest.fixture
def cached(hub: Path) -> Path:
    """One encoder at its pinned revision; returns its weights."""
    return put(hub, NAME, str(ENCODERS[NAME].revision))


def test_what_is_cached_is_found_and_checked(cached: Path) -> None:
    assert availability(NAME, ENCODERS[NAME]).status == "in cache"
    assert (fetch(NAME, ENCODERS[NAME], revision=None) / "config.json").is_file()
    cached.write_bytes(cached.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"model\.safetensors: its SHA-256 is not .*fetch it again"):
        fetch(NAME, ENCODERS[NAME], revision=None)


def test_another_revision_is_another_file(cached: Path) -> None:
    with pytest.raises(
        WeightsUnavailable, match="not a local folder, not in the Hugging Face cache and not reachable"
    ):
        fetch(NAME, ENCODERS[NAME], revision="0" * 40)
    other = "openai/clip-vit-base-patch16"
    here = availability(other, ENCODERS[other])
    assert (here.status, here.reason) == ("unavailable", "not in the Hub's cache on this machine")
    assert here.steps == (f"with a network, run '{command('models fetch')} {other}'",)


def test_pickles_only_and_unpinned_are_said(cached: Path, home: Path) -> None:
    with pytest.raises(ConfigError, match="no revision is pinned; add --revision with a commit of https"):
        fetch(PUBMED, ENCODERS[PUBMED], revision=None)
    with pytest.raises(
        ConfigError, match="the Hub has no safetensors of this encoder; get chexpert_resnet50"
    ):
        fetch("gloria", ENCODERS["gloria"], revision=None)


def trial(**encoder: str) -> TrialConfig:
    return TrialConfig(encoder=EncoderConfig(name=PUBMED, **encoder))


def test_a_revision_that_nobody_pinned_is_remembered_once_it_was_fetched(hub: Path, home: Path) -> None:
    spec, large = ENCODERS[PUBMED], json.dumps({"crop_size": {"height": 336, "width": 336}})
    put(hub, PUBMED, ONE, preprocessor_config=large)
    absent = model_fingerprint(trial())
    assert not has_known_weights(trial())
    assert availability(PUBMED, spec).reason == "no revision is pinned or was fetched on this machine"
    with pytest.raises(
        WeightsUnavailable, match=r"models fetch flavia\S+ --revision COMMIT'.*encoder\.revision"
    ):
        hub_checkpoint(trial().encoder, spec)
    assert fetch(PUBMED, spec, revision=ONE).name == ONE
    assert has_known_weights(trial())
    assert availability(PUBMED, spec).status == "in cache"
    assert hub_checkpoint(trial().encoder, spec).name == ONE
    assert preprocessing_of(trial().encoder).size == 336
    assert model_fingerprint(trial()) != absent


def test_another_fetched_revision_is_another_encoder_but_not_where_one_is_named(
    hub: Path, home: Path
) -> None:
    found = []
    for commit in (ONE, OTHER):
        put(hub, PUBMED, commit)
        fetch(PUBMED, ENCODERS[PUBMED], revision=commit)
        found.append((model_fingerprint(trial()), model_fingerprint(trial(revision=ONE))))
    (one, named), (other, still_named) = found
    assert one != other
    assert named == still_named
    assert hub_checkpoint(trial(revision=ONE).encoder, ENCODERS[PUBMED]).name == ONE


def test_a_named_revision_is_known_once_its_checkpoint_says_how_it_is_fed(hub: Path, home: Path) -> None:
    named, large = trial(revision=ONE), json.dumps({"crop_size": {"height": 336, "width": 336}})
    absent = model_fingerprint(named)
    assert not has_known_weights(named)
    put(hub, PUBMED, ONE, preprocessor_config=large)
    assert has_known_weights(named)
    assert preprocessing_of(named.encoder).size == 336
    assert model_fingerprint(named) != absent
    resnet = TrialConfig(encoder=EncoderConfig(name="open_clip:RN101-quickgelu@openai", revision=ONE))
    assert has_known_weights(resnet)  # how it is fed is written here


def test_a_fetched_revision_whose_weights_are_gone_or_others_is_said(hub: Path, home: Path) -> None:
    weights = put(hub, PUBMED, ONE)
    spec = ENCODERS[PUBMED]
    fetch(PUBMED, spec, revision=ONE)
    before = model_fingerprint(trial())
    weights.write_bytes(save({"logit_scale": torch.tensor(9.0)}))
    with pytest.raises(DataError, match=rf"differ from the fetched ones; .*fetch {PUBMED} --revision {ONE}"):
        hub_checkpoint(trial().encoder, spec)
    shutil.rmtree(hub)
    here = availability(PUBMED, spec)
    assert (here.status, here.reason) == ("unavailable", "not in the Hub's cache on this machine")
    assert here.steps == (f"with a network, run '{command('models fetch')} {PUBMED}'",)
    assert model_fingerprint(trial()) == before  # nothing is asked of the Hub
    assert (hub_checkpoint(trial().encoder, spec, weights=False) / "config.json").is_file()
    (home / "weights" / PUBMED.replace("/", "--") / "fetched" / "about.json").write_text("{}")
    with pytest.raises(DataError, match=r"fetched/about\.json: this file is missing or has changed"):
        model_fingerprint(trial())


def test_a_commit_of_a_pinned_encoder_is_not_remembered(hub: Path, home: Path) -> None:
    put(hub, NAME, ONE)
    fetch(NAME, ENCODERS[NAME], revision=ONE)
    assert not home.exists()
