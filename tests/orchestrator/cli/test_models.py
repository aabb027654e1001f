"""`models`: what there is, what is missing, and what a person has to do about it."""

from __future__ import annotations

import json

import pytest
import torch
from openai_checkpoints import reference
from safetensors.torch import load_file, save_file

from orchestrator.cli.app import execute
from trainables.artifacts import file_sha256
from trainables.models.catalogue.captioners import REVISIONS
from trainables.models.catalogue.classifiers import ARCHITECTURES
from trainables.models.catalogue.other_systems import OTHER_SYSTEMS
from trainables.models.catalogue.registry import ENCODERS, FAMILIES


def test_every_system_is_listed_with_its_standing(home, capsys):
    assert execute(["models", "list", "--json"]) == 0
    systems = {system["name"]: system for system in json.loads(capsys.readouterr().out)}
    assert set(systems) == {*ENCODERS, *OTHER_SYSTEMS}
    zero = systems["chexzero"]
    assert (zero["status"], zero["pooled_dim"], zero["joint_dim"]) == ("unavailable", 768, 512)
    assert zero["presets"]["image"] == list(FAMILIES["openai_file"].image.presets)
    assert all(system["reason"] for system in systems.values() if system["status"] == "unavailable")
    assert execute(["models", "list"]) == 0
    assert "chexzero: unavailable: model not on this machine" in capsys.readouterr().out


def shown(name: str, capsys) -> dict:
    assert execute(["models", "show", name, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "step", "dims", "size"),
    [
        ("resnet18", "curl --create-dirs", (512, None), 224),
        ("vit_b_16", "curl --create-dirs", (768, None), 224),
        ("Salesforce/blip-image-captioning-base", "models convert", (None, None), 384),
    ],
)
def test_what_trainables_run_is_here_once_its_weights_are(
    home, capsys, tmp_path, monkeypatch, name, step, dims, size
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    absent = shown(name, capsys)
    assert (absent["status"], absent["reason"]) == ("unavailable", "its weights are not on this machine")
    assert step in absent["steps"][0]
    assert ("baseline" in absent["note"]) != ("blip_label" in absent["note"])
    assert ((absent["pooled_dim"], absent["joint_dim"]), absent["preprocessing"]["size"]) == (dims, size)
    if name in ARCHITECTURES:
        place = tmp_path / "hub" / "checkpoints" / ARCHITECTURES[name].file
    else:
        place = (
            tmp_path
            / "hub"
            / f"models--{name.replace('/', '--')}"
            / "snapshots"
            / REVISIONS[name]
            / "x.safetensors"
        )
    place.parent.mkdir(parents=True)
    place.touch()
    present = shown(name, capsys)
    assert (present["status"], present["reason"], present["steps"]) == ("in cache", absent["note"], [])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_classifier_is_as_wide_as_its_head_is_large(name):
    system = OTHER_SYSTEMS[name]
    assert system.num_parameters - ARCHITECTURES[name].num_parameters == 1000 * (system.pooled_dim + 1)


def test_one_line_says_what_a_baseline_is(home, capsys):
    assert execute(["models", "list"]) == 0
    said = capsys.readouterr().out
    assert "supervised baseline; 12 M weights; 512; BSD-3-Clause" in said
    assert "captioner; 224 M weights; BSD-3-Clause" in said
    assert "dual encoder; 151 M weights; 768 → 512; with text; LoRA" in said


def test_one_is_shown_with_what_it_has_seen_and_how_to_get_it(home, capsys):
    assert execute(["models", "show", "biovil"]) == 0
    shown = capsys.readouterr().out
    assert "not external  MIMIC-CXR: trained on MIMIC-CXR" in shown
    assert "models convert biovil_image_resnet50_proj_size_128.pt --to biovil --part image" in shown
    assert "models convert vocab.txt --to biovil" in shown
    assert "oversize" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "chexzer"], "did you mean 'chexzero'"),
        (["show", "nothing like it"], "known: lite0-minilm"),
        (["fetch", "medclip-vit"], "models convert pytorch_model.bin --to medclip-vit"),
        (["fetch", "StanfordAIMI/XrayCLIP__vit-b-16__laion2b-s34b-b88k"], "pinned; add --revision"),
        (["fetch", "openai/clip-vit-base-patch32"], "not reachable"),
        (["fetch", "resnet18"], "is not a dual encoder; baseline.architecture=resnet18: ImageNet's weights"),
        (["fetch", "cxr-clip"], "is not a dual encoder; no adapter is written"),
        (["recommend", "--data", "chexprt"], "did you mean 'CheXpert'"),
        (["recommend", "--need", "zero shot"], "did you mean 'zero-shot'"),
        (["recommend"], "models recommend: needs --data (one of"),
        (["convert", "no-such-file.pt", "--to", "chexzero"], "no such file"),
        (["convert", "no-such-file.pt", "--to", "chexzer"], "did you mean 'chexzero'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_message(home, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert execute(["models", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_commit_that_trials_do_not_use_is_said_once_it_is_fetched(
    home, capsys, tmp_path, monkeypatch, is_pinned
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "openai/clip-vit-base-patch32"
    pinned = str(ENCODERS[name].revision)
    commit = pinned if is_pinned else "1" * 40
    snapshot = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert execute(["models", "fetch", name, "--revision", commit]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(commit)
    assert said[1:] == (
        [] if is_pinned else [f"trials use {pinned}; set encoder.revision={commit} to use these weights"]
    )


def test_advice_is_marked_where_the_data_was_trained_on(home, capsys):
    assert execute(["models", "recommend", "--data", "mimic_cxr", "--json"]) == 0
    (advice,) = json.loads(capsys.readouterr().out)
    marks = {choice["name"]: choice["overlaps"] for choice in advice["choices"]}
    assert marks == {
        "medclip-vit": ["trained on MIMIC-CXR"], "biovil": ["trained on MIMIC-CXR"], "gloria": [],
    }  # fmt: skip
    assert execute(["models", "recommend", "--data", "nih", "--need", "speed"]) == 0
    said = capsys.readouterr().out
    assert "not external" not in said
    assert said.index("base-patch32") < said.index("large-patch14-336")


def test_a_converted_file_is_ready(home, capsys, tmp_path):
    foreign, file = tmp_path / "best.pt", tmp_path / "best.safetensors"
    foreign.write_bytes(b"anything")
    assert execute(["models", "convert", str(foreign), "--to", "chexzero"]) == 2
    assert f"--trust-sha256 {file_sha256(foreign)}" in capsys.readouterr().err
    tensors = {n: t for n, t in reference(quick_gelu=True).state_dict().items() if n != "attn_mask"}
    save_file({**tensors, "ln_final.more": torch.ones(2)}, file)
    assert execute(["models", "convert", str(file), "--to", "chexzero"]) == 2
    assert "1 not expected (first: ln_final.more)" in capsys.readouterr().err
    save_file({"transformer.resblocks.0.ln_1.weight": torch.ones(2), "ln_final.weight": torch.ones(2)}, file)
    assert execute(["models", "convert", str(file), "--to", "chexzero"]) == 2
    assert "chexzero" in capsys.readouterr().err
    save_file(tensors, file)
    assert execute(["models", "convert", str(file), "--to", "chexzero"]) == 0
    said = capsys.readouterr().out
    assert "chexzero is ready: 3," in said
    assert "the published encoder has 151,277,313, so this one differs" in said
    assert execute(["models", "show", "chexzero", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ready"


def test_a_wrong_file_does_not_take_the_place_of_one_that_loads(home, capsys, tmp_path):
    file, folder = tmp_path / "best.safetensors", home / "weights" / "chexzero" / "model"
    tensors = {n: t for n, t in reference(quick_gelu=True).state_dict().items() if n != "attn_mask"}
    convert = ["models", "convert", str(file), "--to", "chexzero"]
    save_file(tensors, file)
    assert execute(convert) == 0
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_file({**tensors, "ln_final.more": torch.ones(2)}, file)
    assert execute([*convert, "--replace"]) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == there
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    save_file({**tensors, "logit_scale": torch.tensor(1.0)}, file)
    assert execute([*convert, "--replace"]) == 0
    assert load_file(folder / "model.safetensors")["logit_scale"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert "is ready" in capsys.readouterr().out
