"""Frozen weights in bfloat16: what is stored how, and that embeddings and training hardly move."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables.config import from_flat
from trainables.context import LocalContext
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.registry import encoder_fingerprint
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.load import load_dual_encoder
from trainables.training import hardware
from trainables.training.loop import STEPS_FILE
from trainables.trials.finetune import finetune

pytestmark = pytest.mark.kernels

LORA = {"lora.towers": "both", "lora.num_blocks": 2, "lora.rank": 2, "encoder.precision": "bfloat16"}


def test_only_what_is_frozen_is_stored_in_bfloat16(clip: DualEncoder) -> None:
    adaptation = attach(clip, from_flat(LORA))
    stored = {name: p.dtype for name, p in clip.named_parameters() if name not in adaptation.parameters}
    assert set(stored.values()) == {torch.bfloat16}
    assert {p.dtype for p in adaptation.parameters.values()} == {torch.float32}
    assert any("lora_" in name for name in adaptation.parameters)
    assert clip.log_logit_scale.dtype == torch.float32


@pytest.mark.parametrize("tower", ["image", "text"])
def test_embeddings_and_gradients_hardly_move(
    clip_folder: Path, images_for: Callable[..., torch.Tensor], tower: str
) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        config = from_flat({**LORA, "encoder.name": str(clip_folder), "encoder.precision": precision})
        clip = load_dual_encoder(config.encoder)
        adaptation = attach(clip, config)
        assert clip.dtype == getattr(torch, precision)
        if tower == "image":
            embeddings = clip.encode_image(images_for(clip, 3)).joint
        else:
            embeddings = clip.encode_text(clip.tokenize(["clear lungs", "an opacity", "no effusion"]))
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
        torch.manual_seed(0)
        (embeddings * torch.randn_like(embeddings)).sum().backward()
        name = next(
            n for n in adaptation.parameters if "lora_B" in n and ("vision" in n) == (tower == "image")
        )
        gradient = adaptation.parameters[name].grad
        assert gradient is not None
        found.append((embeddings.detach(), gradient))
    (exact, exact_gradient), (near, near_gradient) = found
    assert 0 < (near - exact).abs().max() < 0.05
    cosine = torch.nn.functional.cosine_similarity(near_gradient.flatten(), exact_gradient.flatten(), dim=0)
    assert cosine > 0.98


def test_training_in_bfloat16_follows_the_curve_of_float32(
    tmp_path: Path, new_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen prefix stored, adapters with dropout, graphs replayed: every part of the step in bfloat16.

    Gradient descent with momentum, because its steps follow the gradient. AdamW divides each element by its
    own size, so that where the gradient is near 0 the rounding of bfloat16, 0.4 %, becomes a step.
    """
    monkeypatch.setattr("torch.optim.AdamW", functools.partial(torch.optim.SGD, momentum=0.9))
    curves = {}
    for precision in ("float32", "bfloat16"):
        config = from_flat(
            {
                "data.dataset": "phantom", "data.phantom.num_train": 46, "data.phantom.num_val": 12,
                "data.phantom.num_test": 12, "data.num_views": 1, "encoder.image_size": 32,
                "encoder.precision": precision, "lora.dropout": 0.1, "global_batch_size": 16, "num_epochs": 3,
                "execution.micro_batch_size": 5, "execution.evaluate_every_epochs": 0,
                "optim.learning_rate": 0.03,
            }
        )  # fmt: skip
        folder = tmp_path / precision
        folder.mkdir()
        finetune(config, LocalContext(workdir=folder, store=new_store))
        lines = (folder / STEPS_FILE).read_text().splitlines()
        curves[precision] = [json.loads(line)["loss"] for line in lines]
    assert len(curves["float32"]) == 9
    assert curves["bfloat16"] != curves["float32"]
    assert curves["float32"][-1] < 0.9 * curves["float32"][0]
    # Each activation is rounded by up to 0.4 %, up or down; what sums of them are off by is less.
    assert curves["bfloat16"] == pytest.approx(curves["float32"], rel=0.01)


def test_another_precision_is_another_encoder() -> None:
    names = ("float32", "bfloat16")
    configs = [from_flat({"encoder.precision": name}).encoder for name in names]
    assert len({encoder_fingerprint(config) for config in configs}) == 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu sse2 avx512f", False), ("fpu avx512f avx512_bf16", True), ("amx_bf16", True), ("", False)],
)
def test_a_processor_is_asked_for_its_instructions(tmp_path: Path, flags: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert hardware._cpu_multiplies_bfloat16(cpuinfo) is expected


@pytest.mark.parametrize(("speedup", "expected"), [(2.2, "bfloat16"), (1.1, "float32"), (0.6, "float32")])
def test_instructions_are_not_enough_they_must_be_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float, expected: str
) -> None:
    monkeypatch.setattr(hardware, "_cpu_multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(hardware, "bfloat16_speedup", lambda: speedup)
    assert hardware.faster_precision.__wrapped__("cpu") == expected


def test_the_speed_of_bfloat16_is_a_ratio_of_two_times() -> None:
    threads = torch.get_num_threads()
    assert 0.01 < hardware.bfloat16_speedup(rounds=2) < 100
    assert torch.get_num_threads() == threads


def test_auto_becomes_what_is_faster_unless_every_weight_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "faster_precision", lambda device: "bfloat16")
    auto = {"encoder.precision": "auto", "execution.device": "cpu"}
    assert hardware.settle_precision(from_flat(auto)).encoder.precision == "bfloat16"
    full = hardware.settle_precision(from_flat({**auto, "adapt.method": "full"}))
    assert full.encoder.precision == "float32"
