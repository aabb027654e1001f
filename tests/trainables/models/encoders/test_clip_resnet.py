"""CLIP's ResNets: cut where bottlenecks end, BatchNorm as it was pretrained, convolutions that adapt."""

from __future__ import annotations

import pytest
import torch
from clip_checkpoints import openai_tensors, random_clip
from comparisons import EXACT, ROUNDED
from float64 import in_float64
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, from_flat
from trainables.errors import ConfigError
from trainables.models.adapters.lora import attach
from trainables.models.adapters.targets import resolve_targets
from trainables.models.encoders.load import load_dual_encoder

pytestmark = pytest.mark.kernels

EVERYTHING = {"lora.towers": "image", "lora.num_blocks": None}


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("resnet") / "RN.safetensors"
    save_file(openai_tensors(random_clip("resnet")), path)
    return f"openai:{path}"


@pytest.fixture
def resnet(name: str):
    return load_dual_encoder(EncoderConfig(name=name))


@torch.no_grad()
def test_every_cut_gives_the_embeddings_of_open_clip(resnet, images_for):
    pixels = in_float64(resnet).pixels(images_for(resnet))
    expected = normalize(random_clip("resnet").double().encode_image(pixels), dim=-1)
    for cut in range(len(resnet.blocks("image")) + 1):
        features = resnet.encode_image_suffix(resnet.encode_image_prefix(pixels, cut), cut)
        torch.testing.assert_close(features.joint, expected, **EXACT)
    assert resnet.encode_image_prefix(pixels, cut).shape == (2, resnet.pooled_dim) == (2, 256)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_batch_norm_keeps_its_statistics_while_the_encoder_trains(resnet, images_for, method):
    attach(resnet, from_flat({"adapt.method": method, **EVERYTHING}))
    norms = [m for m in resnet.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [torch.cat([m.running_mean, m.running_var]) for m in norms]
    resnet.train()
    resnet.encode_image(images_for(resnet, 4)).joint.sum().backward()
    after = [torch.cat([m.running_mean, m.running_var]) for m in norms]
    assert len(norms) == 22
    assert torch.equal(torch.cat(after), torch.cat(before))


@torch.no_grad()
def test_an_image_in_training_does_not_see_its_neighbours(resnet, images_for):
    attach(resnet, from_flat(EVERYTHING))
    resnet.train()
    images = images_for(resnet, 4)
    images[1:] = 255 - images[1:] // 9  # a batch of nearly white neighbours would move batch statistics
    alone = resnet.encode_image(images[:1]).joint
    torch.testing.assert_close(resnet.encode_image(images).joint[:1], alone, **ROUNDED)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("conv1x1", {"conv1", "conv3"}),
        ("conv3x3", {"conv2"}),
        ("conv", {"conv1", "conv2", "conv3"}),
        ("attnpool", {"q_proj", "k_proj", "v_proj"}),
        ("qv", {"q_proj", "v_proj"}),
        ("downsample.0", {"0"}),
    ],
)
def test_presets_part_the_bottlenecks_and_leave_the_stem(resnet, preset, expected):
    targets = resolve_targets(resnet, from_flat({**EVERYTHING, "lora.target_modules": preset}).lora)["image"]
    assert {name.rsplit(".", 1)[-1] for name in targets} == expected
    assert not any(name.startswith("image.blocks.0.") for name in targets)
    wanted = (3, 3) if preset == "conv3x3" else (1, 1)
    kernels = {m.kernel_size for m in map(resnet.get_submodule, targets) if isinstance(m, nn.Conv2d)}
    assert preset == "conv" or not kernels or kernels == {wanted}


def test_the_cut_lies_below_the_lowest_adapted_bottleneck(resnet):
    upper = {"lora.num_blocks": 2, "lora.target_modules": "conv"}
    assert attach(resnet, from_flat(upper)).image_cut == len(resnet.blocks("image")) - 2


def test_a_transformers_preset_that_a_resnet_lacks_lists_its_layers(resnet):
    config = from_flat({**EVERYTHING, "lora.target_modules": "mlp"})
    with pytest.raises(ConfigError, match=r"matches no module.*conv1, conv2, conv3.*q_proj"):
        resolve_targets(resnet, config.lora)


@torch.no_grad()
def test_another_image_size_stretches_the_places_of_the_pooling(name, images_for):
    larger = load_dual_encoder(EncoderConfig(name=name, image_size=96))
    assert larger.image.blocks[-1].positional_embedding.shape == (3 * 3 + 1, 256)
    assert larger.encode_image(images_for(larger)).joint.shape == (2, 32)


def test_frozen_weights_in_bfloat16_hardly_move_an_embedding(name, images_for):
    config = from_flat({"encoder.name": name, "encoder.precision": "bfloat16", **EVERYTHING})
    plain, rounded = (load_dual_encoder(config.encoder) for _ in range(2))
    attach(rounded, config)
    images = images_for(plain)
    difference = rounded.encode_image(images).joint - plain.encode_image(images).joint
    assert 0 < difference.abs().max() < 0.05
