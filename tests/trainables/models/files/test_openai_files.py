"""CLIP in OpenAI's form: the same embeddings from every container, and nothing else is read."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from clip_checkpoints import openai_tensors, random_clip, write_transformers
from comparisons import EXACT
from float64 import in_float64
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.catalogue.registry import encoder_fingerprint, preprocessing_of
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.files import openai_files
from trainables.models.files.openai_files import published_hashes, read_tensors


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return openai_tensors(random_clip("vit"))


@pytest.fixture
def file(tensors, tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "ViT.safetensors")
    return tmp_path / "ViT.safetensors"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path, revision: str | None = None):
    return load_dual_encoder(EncoderConfig(name=f"openai:{path}", revision=revision))


class Scripted(nn.Module):
    """Carries tensors by dotted names, in half precision, as the traced modules that OpenAI published do."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            holder: nn.Module = self
            for part in path:
                if part not in dict(holder.named_children()):
                    holder.add_module(part, nn.Module())
                holder = holder.get_submodule(part)
            stored = tensor.half() if tensor.is_floating_point() else tensor
            holder.register_buffer(leaf, stored)

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers + 1


def write_torchscript(tensors: dict[str, Tensor], path: Path) -> None:
    torch.jit.trace(Scripted(tensors), torch.ones(1)).save(str(path))


@pytest.mark.kernels
@torch.no_grad()
def test_a_folder_of_transformers_and_openais_file_give_equal_embeddings(
    tensors, file, tmp_path, images_for, texts
):
    folder = tmp_path / "hub"
    folder.mkdir()
    write_transformers(tensors, folder)
    ours, theirs = map(in_float64, (load(file), load_dual_encoder(EncoderConfig(name=str(folder)))))
    images = images_for(ours)
    for found, expected in zip(ours.encode_image(images), theirs.encode_image(images), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)
    found, expected = (encoder.encode_text(encoder.tokenize(texts)) for encoder in (ours, theirs))
    torch.testing.assert_close(found, expected, **EXACT)
    assert ours.preprocessing == theirs.preprocessing
    assert ours.log_logit_scale == theirs.log_logit_scale


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["vit", "resnet"])
@torch.no_grad()
def test_the_architecture_is_read_from_the_shapes(kind, tmp_path, images_for):
    model = random_clip(kind)
    save_file(openai_tensors(model), tmp_path / "clip.safetensors")
    encoder = in_float64(load(tmp_path / "clip.safetensors"))
    assert encoder.preprocessing.size == preprocessing_of(EncoderConfig(name=encoder.name)).size == 64
    expected = nn.functional.normalize(
        model.double().encode_image(encoder.pixels(images_for(encoder))), dim=-1
    )
    torch.testing.assert_close(encoder.encode_image(images_for(encoder)).joint, expected, **EXACT)


def test_a_pt_of_tensors_is_read_once_its_hash_is_vouched_for(tensors, file, tmp_path):
    torch.save(tensors, tmp_path / "clip.pt")
    with pytest.raises(WeightsUnavailable, match=r"not one that OpenAI published .* set encoder\.revision"):
        load(tmp_path / "clip.pt")
    known = sha256(tmp_path / "clip.pt")
    encoder = load(tmp_path / "clip.pt", revision=known)
    assert torch.equal(encoder.text_projection.weight, load(file).text_projection.weight)
    with pytest.raises(WeightsUnavailable, match=rf"its SHA-256 is {known}, expected 0000"):
        load(tmp_path / "clip.pt", revision="0" * 64)
    with pytest.raises(ConfigError, match=r"encoder\.revision='main': .* the revision must be its SHA-256"):
        load(tmp_path / "clip.pt", revision="main")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_an_archive_as_openai_publishes_it_is_read_without_running_it(tensors, tmp_path, monkeypatch):
    path = tmp_path / "ViT.pt"
    write_torchscript(tensors, path)
    monkeypatch.setattr(openai_files, "published_hashes", lambda: {sha256(path)})
    monkeypatch.setattr(torch.jit, "load", None)  # would be a crash
    read = read_tensors(path)
    assert read.keys() == tensors.keys() - set(openai_files.NOT_WEIGHTS)
    for name, tensor in read.items():
        wanted = tensors[name].half() if tensors[name].is_floating_point() else tensors[name]
        assert torch.equal(tensor, wanted), name
    encoder = load(path)
    assert encoder.image_projection.weight.dtype == torch.float32
    assert encoder.fingerprint == encoder_fingerprint(EncoderConfig(name=f"openai:{path}"))


def test_the_published_hashes_are_those_of_openais_nine_models():
    assert len(published_hashes()) == 9
    assert "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599" in published_hashes()  # RN101


class Hostile:
    """What a pickle can do: it is code."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(tmp_path, container):
    canary, path = tmp_path / "canary", tmp_path / "clip.pt"
    if container == "torch":
        torch.save({"visual.proj": Hostile(canary)}, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(canary)))
    with pytest.raises(
        WeightsUnavailable, match=r"clip\.pt: cannot be read as tensors, and code is never run"
    ):
        load(path, revision=sha256(path))
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_an_archive_whose_index_names_anything_else_is_refused(tensors, tmp_path):
    import zipfile

    canary = tmp_path / "canary"
    with zipfile.ZipFile(tmp_path / "clip.pt", "w") as archive:
        archive.writestr("clip/constants.pkl", b"")
        archive.writestr("clip/data.pkl", pickle.dumps(Hostile(canary)))
    with pytest.raises(WeightsUnavailable, match="its index names pathlib"):
        load(tmp_path / "clip.pt", revision=sha256(tmp_path / "clip.pt"))
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_was_cut_short_is_refused(tensors, tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsUnavailable, match=r"cannot be read as tensors.*get the file again"):
        load(path, revision=sha256(path))


def test_missing_additional_and_misshapen_tensors_are_named(tensors, tmp_path):
    path = tmp_path / "clip.safetensors"

    def refused(changed: dict[str, Tensor], message: str) -> None:
        save_file(changed, path)
        with pytest.raises(ConfigError, match=message):
            load(path)

    name = "transformer.resblocks.1.mlp.c_fc.weight"
    refused(
        {n: t for n, t in tensors.items() if n != name}, rf"does not fit CLIP: 1 missing \(first: {name}\)$"
    )
    refused({n: t for n, t in tensors.items() if n != "logit_scale"}, r"1 missing \(first: logit_scale\)$")
    refused({n: t for n, t in tensors.items() if n != "ln_final.weight"}, r"no tensor 'ln_final\.weight'")
    refused(tensors | {"surplus": torch.ones(1)}, r"1 not expected \(first: surplus\)$")
    refused(tensors | {name: torch.ones(3, 3)}, rf"1 of another shape \(first: {name}\)$")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    for ask in (load_dual_encoder, encoder_fingerprint, preprocessing_of):
        with pytest.raises(WeightsUnavailable, match=r"nowhere\.pt: no such file"):
            ask(EncoderConfig(name=f"openai:{tmp_path / 'nowhere.pt'}"))
