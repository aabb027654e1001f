"""Foreign checkpoints: opened only after their hash, only in quarantine, and never run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shlex
import sys
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trainables.artifacts import file_sha256, verify
from trainables.errors import ConfigError, DataError
from trainables.models.catalogue.registry import ENCODERS
from trainables.models.convert import convert_file, convert_part
from trainables.models.files.weights import encoder_folder, how_to_convert, missing_parts, parts_identity

WEIGHTS = {"conv1.weight": torch.arange(6.0).view(2, 3), "ln.bias": torch.ones(3)}


class Canary:
    """A pickle of it makes a file wherever it is opened by an unpickler that runs what it reads."""

    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self):
        return os.system, (f"touch {self.nest}",)


def checkpoint(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_a_trusted_file_becomes_safetensors_with_a_manifest(home, tmp_path):
    file = checkpoint(tmp_path / "best.pt", WEIGHTS)
    converted = convert_part(file, "gloria", ENCODERS["gloria"], part=None, trusted=file_sha256(file))
    verify(converted.folder)
    assert converted.folder == encoder_folder("gloria") / "model"
    assert converted.folder.is_relative_to(home)
    tensors = load_file(converted.folder / "model.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in WEIGHTS.items())
    about = json.loads((converted.folder / "about.json").read_text())
    assert (about["sha256"], about["num_tensors"]) == (file_sha256(file), 2)
    assert {path.suffix for path in converted.folder.iterdir()} == {".safetensors", ".json"}
    assert missing_parts("gloria", ENCODERS["gloria"]) == ["vocabulary"]
    assert converted.num_weights is None  # it is loaded once that is here


def test_a_pickle_with_code_is_refused_by_name_and_not_run(home, tmp_path):
    nest = tmp_path / "egg"
    file = checkpoint(tmp_path / "best.pt", {**WEIGHTS, "extra": Canary(nest)})
    with pytest.raises(
        DataError,
        match=r"best\.pt: refused: the pickle would run code .*posix\.system; no code in it was run",
    ):
        convert_part(file, "chexzero", ENCODERS["chexzero"], part=None, trusted=file_sha256(file))
    assert not nest.exists()
    assert not encoder_folder("chexzero").joinpath("model").exists()
    torch.load(file, weights_only=False)
    assert nest.exists()  # the canary is alive: opened the usual way, it does run


@pytest.mark.parametrize("trusted", [None, "0" * 64, "no hash"])
def test_a_file_that_nobody_vouches_for_is_not_opened(home, tmp_path, trusted):
    file = checkpoint(tmp_path / "best.pt", WEIGHTS)
    message = file_sha256(file) if trusted != "no hash" else "not a SHA-256"
    with pytest.raises(ConfigError, match=message):
        convert_part(file, "chexzero", ENCODERS["chexzero"], part=None, trusted=trusted)
    assert not encoder_folder("chexzero").exists()


def test_a_published_hash_has_to_match(home, tmp_path):
    file = checkpoint(tmp_path / "biovil_image_resnet50_proj_size_128.pt", WEIGHTS)
    with pytest.raises(
        DataError, match=r"its MD5 is [0-9a-f]{32}, published is 02ce6ee460f72efd599295f440dbb453"
    ):
        convert_part(file, "biovil", ENCODERS["biovil"], part=None, trusted=None)


@pytest.mark.slow
def test_settings_of_a_training_checkpoint_become_nothing(home, tmp_path, monkeypatch):
    for module, names in {
        "omegaconf": (),
        "omegaconf.dictconfig": ("DictConfig",),
        "omegaconf.base": ("Metadata",),
    }.items():
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, type(name, (), {"__module__": module}))
        monkeypatch.setitem(sys.modules, module, fake)
    settings, metadata = (
        sys.modules["omegaconf.dictconfig"].DictConfig(),
        sys.modules["omegaconf.base"].Metadata(),
    )
    metadata.__dict__ |= {"ref_type": Any, "object_type": dict, "flags": {"a": [1]}}
    metadata.__dict__["resolver_cache"] = defaultdict(dict)
    settings.__dict__ |= {"_metadata": metadata, "_content": {"lr": np.float64(1e-4)}}
    content = {"state_dict": WEIGHTS, "hyper_parameters": settings, "args": argparse.Namespace(lr=1e-4)}
    file = checkpoint(tmp_path / "chexpert_resnet50.ckpt", content)
    converted = convert_part(file, "gloria", ENCODERS["gloria"], part=None, trusted=file_sha256(file))
    assert set(load_file(converted.folder / "model.safetensors")) == set(WEIGHTS)
    assert missing_parts("gloria", ENCODERS["gloria"]) == ["vocabulary"]


def test_a_vocabulary_is_copied_and_others_are_refused(home, tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nlung\n")
    convert_part(file, "gloria", ENCODERS["gloria"], part=None, trusted=None)
    assert missing_parts("gloria", ENCODERS["gloria"]) == ["model"]
    with pytest.raises(ConfigError, match=r"exists already .*--replace"):
        convert_part(file, "gloria", ENCODERS["gloria"], part=None, trusted=None)
    file.write_text("lung\n")
    with pytest.raises(DataError, match=r"not a BERT vocabulary, \[PAD\]"):
        convert_part(file, "gloria", ENCODERS["gloria"], part=None, trusted=None, replace=True)


def test_safetensors_need_no_trust(home, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(WEIGHTS, file)
    converted = convert_part(file, "gloria", ENCODERS["gloria"], part=None, trusted=None)
    assert converted.num_tensors == 2
    before = parts_identity("gloria", ENCODERS["gloria"])
    file.write_bytes(b"no safetensors at all")
    with pytest.raises(DataError, match="not a safetensors file"):
        convert_part(file, "gloria", ENCODERS["gloria"], part=None, trusted=None, replace=True)
    assert parts_identity("gloria", ENCODERS["gloria"]) == before


@pytest.mark.parametrize("place", [".", "../there"])
def test_a_folder_may_be_named_from_where_one_stands(tmp_path, monkeypatch, place):
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    save_file(WEIGHTS, there.parent / "weights.safetensors")
    assert convert_file(Path("../weights.safetensors"), Path(place), trusted=None).num_tensors == 2
    assert set(load_file(there / "model.safetensors")) == set(WEIGHTS)
    assert not list(tmp_path.glob("*.converted"))


def test_the_same_tensors_of_another_file_are_the_same_weights(home, tmp_path):
    spec, found = ENCODERS["gloria"], []
    for number, tensors in enumerate((WEIGHTS, WEIGHTS, WEIGHTS | {"more": torch.ones(1)})):
        save_file(tensors, tmp_path / f"{number}.safetensors")
        convert_part(
            tmp_path / f"{number}.safetensors", "gloria", spec, part=None, trusted=None, replace=number > 0
        )
        found.append(parts_identity("gloria", spec))
    one, same, other = found
    assert one == same
    assert one != other
    (encoder_folder("gloria") / "model" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        parts_identity("gloria", spec)


def test_parts_are_told_apart_or_asked_for(home, tmp_path):
    file = checkpoint(tmp_path / "renamed.pt", WEIGHTS)
    with pytest.raises(ConfigError, match="--part image or --part text"):
        convert_part(file, "biovil", ENCODERS["biovil"], part=None, trusted=file_sha256(file))
    with pytest.raises(ConfigError, match=r"no such part .*image, text, vocabulary"):
        convert_part(file, "biovil", ENCODERS["biovil"], part="txt", trusted=file_sha256(file))
    with pytest.raises(ConfigError, match="need no conversion"):
        convert_part(file, "lite0-minilm", ENCODERS["lite0-minilm"], part=None, trusted=None)


def test_the_command_that_converts_can_be_copied_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / "my clip; v1"
    folder.mkdir()
    (folder / "pytorch_model.bin").touch()
    command = how_to_convert("own/er", folder, None).partition(": ")[2]
    assert shlex.split(command)[4:] == ["convert", f"{folder}/pytorch_model.bin", "--to", str(folder)]


def test_a_checkpoint_in_several_files_is_not_converted_by_its_first(tmp_path):
    for number in (1, 2):
        (tmp_path / f"pytorch_model-0000{number}-of-00002.bin").touch()
    advice = how_to_convert("own/er", tmp_path, None)
    assert "split into 2 files (first: pytorch_model-00001-of-00002.bin)" in advice
    assert "models convert" not in advice
    (tmp_path / "whole.bin").touch()
    assert f"convert {tmp_path}/whole.bin --to" in how_to_convert("own/er", tmp_path, None)


@pytest.mark.slow
def test_a_plain_pickle_with_code_is_not_run_either(tmp_path):
    nest, file = tmp_path / "egg", tmp_path / "plain.pt"
    file.write_bytes(pickle.dumps(Canary(nest)))
    with pytest.raises(DataError, match="refused"):
        convert_file(file, tmp_path / "out", trusted=file_sha256(file))
    assert not nest.exists()


@pytest.mark.slow
def test_a_checkpoint_beside_its_configuration_gets_safetensors(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    file = checkpoint(folder / "pytorch_model.bin", {"model": WEIGHTS})
    convert_file(file, folder, trusted=file_sha256(file))
    assert set(load_file(folder / "model.safetensors")) == set(WEIGHTS)
    assert (folder / "config.json").read_text() == "{}"
    with pytest.raises(ConfigError, match="already contains safetensors"):
        convert_file(file, folder, trusted=file_sha256(file))


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04 no archive"])
def test_what_is_no_checkpoint_is_one_message(tmp_path, content):
    file = tmp_path / "broken.pt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.pt"):
        convert_file(file, tmp_path / "out", trusted=file_sha256(file))
    assert not (tmp_path / "out").exists()
