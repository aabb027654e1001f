from pathlib import Path

import pytest

from orchestrator.checks import check_ready, may_be_here
from trainables.config import from_flat
from trainables.errors import WeightsUnavailable
from trainables.models.fetch import fetch
from trainables.models.registry import ENCODERS

CLIP = {"encoder.name": "openai/clip-vit-base-patch32", "adapt.method": "none"}
RESNET = {"adapt.method": "baseline", "baseline.architecture": "resnet18"}


@pytest.fixture(autouse=True)
def nothing_here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"encoder.name": "chexzero", "adapt.method": "none"}, r"models convert .* --to chexzero"),
        ({"encoder.name": "open_clip:RN101-quickgelu@openai", "adapt.method": "none"}, r"encoder\.revision"),
        (CLIP, "models fetch openai/clip-vit-base-patch32"),
        (RESNET, "curl --create-dirs"),
        ({"data.captions": "blip_label"}, r"captioner\.name=Salesforce.*models convert"),
    ],
)
def test_what_is_surely_not_here_is_said_before_a_process_is_started(
    fields: dict[str, str], said: str
) -> None:
    with pytest.raises(WeightsUnavailable, match=said):
        check_ready(from_flat(fields))
    assert not may_be_here(from_flat(fields))


def test_where_there_is_a_network_a_trial_may_fetch_its_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert may_be_here(from_flat(CLIP))
    assert may_be_here(from_flat({"data.captions": "blip_label", "captioner.name": "own/er"}))
    assert not may_be_here(from_flat({"data.captions": "blip_label"}))  # a pickle, as is known


def test_an_encoder_without_a_pinned_revision_is_ready_once_one_was_fetched(tmp_path: Path) -> None:
    name, commit = "open_clip:RN101-quickgelu@openai", "1" * 40
    snapshot = tmp_path / "hub" / "models--timm--resnet101_clip.openai" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "open_clip_model.safetensors").write_bytes(b"weights")
    fields = {"encoder.name": name, "adapt.method": "none"}
    assert not may_be_here(from_flat(fields))
    fetch(name, ENCODERS[name], revision=commit)
    check_ready(from_flat(fields))


@pytest.mark.parametrize("fields", [{"adapt.method": "none"}, RESNET | {"baseline.from_scratch": True}])
def test_what_needs_no_download_is_ready(fields: dict[str, str | bool]) -> None:
    check_ready(from_flat(fields))
