"""Every kind of OpenAI's CLIP from a checkpoint to a probe: what goes in, what adapts, what comes out."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from clip_checkpoints import full_width_tensors, openai_tensors, random_clip, write_transformers
from comparisons import ROUNDED, assert_same_weights
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.config import EncoderConfig, TrialConfig, from_flat
from trainables.context import LocalContext
from trainables.data.transforms import fit
from trainables.errors import ConfigError
from trainables.models.adapters.adapter_files import load_adapter, save_adapter
from trainables.models.adapters.liveness import prove_alive
from trainables.models.adapters.lora import attach, merge
from trainables.models.catalogue.registry import ENCODERS, FAMILIES, preprocessing_of
from trainables.models.encoders.attention import SplitAttention
from trainables.models.encoders.dropout import set_dropout_rows
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.load import load_dual_encoder
from trainables.scoring.predictions import read_predictions
from trainables.trials.adapt import adapt

pytestmark = pytest.mark.kernels

SYSTEMS = ("zero_shot_unseen", "probe_joint", "probe_pooled")
KINDS = ("transformers", "vit", "resnet")
PARAMETERS = {"transformers": 3_421_761, "vit": 3_421_761, "resnet": 3_608_381}
TOKENS = {
    "a diagram": [320, 22697],
    "a dog": [320, 1929],
    "A  CAT": [320, 2368],
    "chest X-ray": [10563, 343, 268, 3077],
    "Non-COVID": [3353, 268, 622, 9284],
}
SHARED = {"qv": 2, "qkv": 3, "qkvo": 4, "mlp": 2, "qv_mlp": 4, "all": 6}
POOLED = {"conv1x1": 2, "conv3x3": 1, "conv": 3, "attnpool": 3, "all": 6}
Case = tuple[DualEncoder, TrialConfig, int]
CASES = [
    *(("transformers", "both", preset, count) for preset, count in SHARED.items()),
    *(("vit", "both", preset, count) for preset, count in SHARED.items()),
    *(("resnet", "image", preset, count) for preset, count in POOLED.items()),
]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`encoder.name` of a checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("openai")
    names = {}
    for kind in ("vit", "resnet"):
        tensors = openai_tensors(random_clip(kind))
        save_file(tensors, folder / f"{kind}.safetensors")
        names[kind] = f"openai:{folder / kind}.safetensors"
        if kind == "vit":
            (folder / "hub").mkdir()
            write_transformers(tensors, folder / "hub")
    return {"transformers": str(folder / "hub"), **names}


@pytest.fixture(scope="module")
def loaded(names: dict[str, str]) -> dict[str, DualEncoder]:
    return {kind: load_dual_encoder(EncoderConfig(name=name)) for kind, name in names.items()}


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest, loaded: dict[str, DualEncoder]) -> DualEncoder:
    return fresh(loaded[request.param])


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case[:3:2]))
def case(
    request: pytest.FixtureRequest, loaded: dict[str, DualEncoder]
) -> tuple[DualEncoder, TrialConfig, int]:
    """A fresh encoder, what adapts it, and how many kinds of modules that is in each tower."""
    kind, towers, preset, count = request.param
    values = {"lora.towers": towers, "lora.target_modules": preset, "lora.num_blocks": None, "lora.rank": 2}
    return fresh(loaded[kind]), from_flat(values | {"adapt.method": "lora"}), count


def fresh(encoder: DualEncoder) -> DualEncoder:
    """Returns a copy to be adapted; it shares the vocabulary, which takes long to copy."""
    return copy.deepcopy(encoder, {id(encoder.tokenizer): encoder.tokenizer})


@torch.no_grad()
def embed(encoder: DualEncoder, images: Tensor, texts: list[str]) -> Tensor:
    return torch.cat([encoder.encode_image(images).joint, embed_texts(encoder, texts)])


@torch.no_grad()
def embed_texts(encoder: DualEncoder, texts: list[str]) -> Tensor:
    return encoder.encode_text(encoder.tokenize(texts))


def randomise(adaptation) -> None:
    """Sets every B as if it had been trained."""
    random = torch.Generator().manual_seed(0)
    for name, parameter in adaptation.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=random)


def test_every_preset_of_every_tower_is_tested_here() -> None:
    tested = {(kind == "transformers", preset) for kind, _, preset, _ in CASES}
    for family in ("clip", "open_clip"):
        presets = {*FAMILIES[family].image.presets, *FAMILIES[family].text.presets}
        assert {(family == "clip", preset) for preset in presets} <= tested


def test_nothing_is_lost_between_file_and_encoder(encoder, names):
    kind = next(kind for kind, name in names.items() if name == encoder.name)
    assert sum(p.numel() for p in encoder.parameters()) == PARAMETERS[kind]
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert preprocessing_of(EncoderConfig(name=encoder.name)) == encoder.preprocessing


def test_a_fixed_image_becomes_fixed_pixels(encoder):
    y, x = np.mgrid[:80, :100]
    image = ((x * 7 + y * 13) % 256).astype(np.uint8)
    fitted = torch.from_numpy(fit(image, encoder.preprocessing).copy())
    pixels = encoder.pixels(fitted[None]).contiguous().numpy()
    assert pixels.shape == (1, 3, 64, 64)
    assert hashlib.sha256(fitted.numpy().tobytes()).hexdigest()[:16] == "c7c642ecf85d5f2c"
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "a8df09f9291c1581"


def test_fixed_prompts_become_fixed_tokens(encoder):
    tokens = encoder.tokenize(list(TOKENS))
    for ids, mask, expected in zip(*tokens, TOKENS.values(), strict=True):
        assert ids[: len(expected) + 2].tolist() == [49406, *expected, 49407]
        assert mask.sum() == len(expected) + 2


@torch.no_grad()
def test_an_embedding_does_not_depend_on_its_batch(encoder, images_for, texts):
    images = images_for(encoder, 3)
    alone = torch.cat([encoder.encode_image(image[None]).joint for image in images])
    torch.testing.assert_close(encoder.encode_image(images).joint, alone, **ROUNDED)
    alone = torch.cat([encoder.encode_text(encoder.tokenize([text])) for text in texts])
    torch.testing.assert_close(encoder.encode_text(encoder.tokenize(texts)), alone, **ROUNDED)


def test_a_preset_adapts_what_it_says_and_all_of_it_is_alive(case, images_for, texts):
    encoder, config, count = case
    images = images_for(encoder)
    before = embed(encoder, images, texts)
    adaptation = attach(encoder, config)
    for names in adaptation.targets.values():
        assert len({name.rsplit(".", 1)[-1] for name in names}) == count
    torch.testing.assert_close(embed(encoder, images, texts), before, **ROUNDED)
    prove_alive(encoder, adaptation, images, encoder.tokenize(texts))


class Ignored(nn.Module):
    """A layer whose adapter is not called, as a fused kernel would not call it."""

    def __init__(self, adapted: nn.Module) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, states: Tensor) -> Tensor:
        return self.adapted.base_layer(states)


def test_an_adapter_that_the_forward_pass_ignores_fails_the_trial(case, images_for, texts):
    encoder, config, _ = case
    adaptation = attach(encoder, config)
    tower, names = next(iter(adaptation.targets.items()))
    encoder.set_submodule(names[-1], Ignored(encoder.get_submodule(names[-1])))
    with pytest.raises(ConfigError, match=rf"{tower} tower .*ignores: .*{names[-1].rsplit('.', 1)[-1]}"):
        prove_alive(encoder, adaptation, images_for(encoder), encoder.tokenize(texts))


def test_an_adapter_survives_merging_and_the_disk(case, loaded, images_for, texts, tmp_path):
    encoder, config, _ = case
    images = images_for(encoder)
    frozen = embed(encoder, images, texts)
    adaptation = attach(encoder, config)
    randomise(adaptation)
    trained = embed(encoder, images, texts)
    assert (trained - frozen).abs().max() > 1e-3
    save_adapter(encoder, adaptation, tmp_path / "adapter", about={})
    again = fresh(next(e for e in loaded.values() if e.name == encoder.name))
    load_adapter(again, tmp_path / "adapter")
    assert_same_weights(again, encoder)
    torch.testing.assert_close(embed(again, images, texts), trained, **ROUNDED)
    merge(encoder)
    torch.testing.assert_close(embed(encoder, images, texts), trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@torch.no_grad()
def test_dropout_acts_on_every_layer_and_repeats_itself(loaded, images_for, texts, kind):
    encoder = fresh(loaded[kind])
    both = {"lora.towers": "both", "lora.num_blocks": None, "lora.dropout": 0.5}
    adaptation = attach(encoder, from_flat(both))
    randomise(adaptation)
    images, rows = images_for(encoder), [0, 1]
    whole = embed(encoder, images, texts)
    encoder.train()
    set_dropout_rows(encoder, seed=0, step=0, image_rows=rows, text_rows=rows)
    dropped = embed(encoder, images, texts)
    assert ((dropped - whole).abs().amax(1) > 1e-4).all()
    assert torch.equal(embed(encoder, images, texts), dropped)
    set_dropout_rows(encoder, seed=0, step=1, image_rows=rows, text_rows=rows)
    assert not torch.equal(embed(encoder, images, texts), dropped)
    encoder.eval()
    assert torch.equal(embed(encoder, images, texts), whole)


def trial(name: str, **changes: object) -> TrialConfig:
    phantom = {"data.phantom.num_train": 18, "data.phantom.num_val": 12, "data.phantom.num_test": 6}
    short = {"data.num_views": 1, "global_batch_size": 8, "num_epochs": 1, "optim.learning_rate": 1e-2}
    lora = {"adapt.method": "lora", "lora.towers": "both", "lora.rank": 2}
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return from_flat({"encoder.name": name, "data.dataset": "phantom"} | phantom | short | lora | changed)


@pytest.mark.parametrize(
    "kind",
    ["resnet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("vit", "transformers"))],
)
def test_zero_shot_then_adapters_then_probes(names, tmp_path, kind):
    metrics, scores = {}, {}
    for method in ("none", "lora"):
        (tmp_path / method).mkdir()
        context = LocalContext(workdir=tmp_path / method, store=tmp_path / "store")
        metrics[method] = adapt(trial(names[kind], adapt__method=method), context)
        read = read_predictions(context.workdir / "results" / "predictions.parquet")
        scores[method] = {system: read["val", system].scores for system in SYSTEMS}
    for system in SYSTEMS:
        assert 0 <= metrics["lora"][f"val/{system}/macro_auroc"] <= 1
        assert np.abs(np.subtract(scores["none"][system], scores["lora"][system])).max() > 1e-4
    assert metrics["none"]["perf/num_trainable_parameters"] == 0
    assert metrics["lora"]["perf/num_trainable_parameters"] > 1000
    assert (tmp_path / "lora" / "results" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_trial_whose_output_layer_is_not_called_ends_before_it_trains(names, tmp_path, monkeypatch):
    def fused(self: SplitAttention, query: Tensor, key: Tensor, value: Tensor, **_: object):
        states = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        attended = nn.functional.scaled_dot_product_attention(*states)
        layer = self.out_proj
        return nn.functional.linear(attended, layer.weight, layer.bias), None

    monkeypatch.setattr(SplitAttention, "forward", fused)
    config = trial(names["vit"], lora__target_modules="qkvo", lora__towers="image")
    with pytest.raises(ConfigError, match=r"image tower .* ignores: attn\.out_proj"):
        adapt(config, LocalContext(workdir=tmp_path, store=tmp_path / "store"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "registered", "preset", "num_blocks"),
    [
        ("ViT-B-32-quickgelu", "openai/clip-vit-base-patch32", "qv_mlp", None),
        pytest.param(
            "ViT-L-14-336-quickgelu", "openai/clip-vit-large-patch14-336", "all", 2, marks=pytest.mark.faults
        ),
        ("RN101-quickgelu", "open_clip:RN101-quickgelu@openai", "conv", 4),
    ],
)
def test_a_file_of_full_width(tmp_path, images_for, texts, architecture, registered, preset, num_blocks):
    path = tmp_path / "clip.safetensors"
    save_file(full_width_tensors(architecture), path)
    encoder = load_dual_encoder(EncoderConfig(name=f"openai:{path}"))
    path.unlink()
    spec = ENCODERS[registered]
    assert sum(p.numel() for p in encoder.parameters()) == spec.num_parameters
    assert (encoder.pooled_dim, encoder.joint_dim) == (spec.pooled_dim, spec.joint_dim)
    assert encoder.preprocessing == preprocessing_of(EncoderConfig(name=registered))
    image = images_for(encoder, 1)
    adaptation = attach(encoder, from_flat({"lora.target_modules": preset, "lora.num_blocks": num_blocks}))
    prove_alive(encoder, adaptation, image, encoder.tokenize(texts))
    with torch.no_grad():
        below = encoder.encode_image_prefix(encoder.pixels(image), adaptation.image_cut)
        frozen = encoder.encode_image_suffix(below, adaptation.image_cut).joint
        randomise(adaptation)
        trained = encoder.encode_image_suffix(below, adaptation.image_cut).joint
        assert (trained - frozen).abs().max() > 1e-3
        merge(encoder)
        merged = encoder.encode_image_suffix(below, adaptation.image_cut).joint
    torch.testing.assert_close(merged, trained, rtol=0, atol=1e-5)
    assert embed_texts(encoder, texts).shape == (2, spec.joint_dim)
