from pathlib import Path

import pytest

from orchestrator.planning.checks import check_ready, may_be_here, missing_weights
from trainables.config import from_flat
from trainables.errors import WeightsUnavailable
from trainables.models.catalogue.registry import ENCODERS
from trainables.models.files.fetch import fetch

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


def cache(hub: Path, repository: str, commit: str) -> None:
    """Puts weights into the Hub's cache, as the newest there."""
    root = hub / f"models--{repository.replace('/', '--')}"
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "snapshots" / commit / "model.safetensors").touch()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


def missing(**encoder: str) -> list[str]:
    return missing_weights([from_flat({f"encoder.{key}": value for key, value in encoder.items()})])


def test_whether_an_encoder_that_nobody_registered_is_here_is_known_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket", None)  # would be a crash
    (line,) = missing(name="own/er")
    assert line == (
        "own/er: not in the Hub's cache on this machine; with a network, run 'hf download own/er'"
    )
    cache(tmp_path / "hub", "own/er", "1" * 40)
    assert missing(name="own/er") == []
    (line,) = missing(name="own/er", revision="2" * 40)
    assert line.endswith(f"run 'hf download own/er --revision {'2' * 40}'")


def test_another_revision_of_a_registered_encoder_is_looked_for_too(tmp_path: Path) -> None:
    name = str(CLIP["encoder.name"])
    cache(tmp_path / "hub", name, str(ENCODERS[name].revision))
    assert missing(name=name) == []
    assert len(missing(name=name, revision="2" * 40)) == 1


def test_a_folder_is_here_where_it_has_safetensors(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "pytorch_model.bin").touch()
    (line,) = missing(name=str(folder))
    assert line.startswith(f"{folder}: no *.safetensors, and pickles are not read; convert")
    (folder / "model.safetensors").touch()
    assert missing(name=str(folder)) == missing(name=f"open_clip:{folder}") == []
    (line,) = missing(name=f"dual:{folder}+own/er")
    assert ": own/er not in the Hub's cache" in line
    assert missing(name=f"openai:{folder}/none.pt") == [
        f"openai:{folder}/none.pt: {folder}/none.pt: no such file"
    ]
