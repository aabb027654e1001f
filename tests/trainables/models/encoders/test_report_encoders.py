"""Medical encoders against the forward passes of their authors, on narrow checkpoints with the real names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from comparisons import EXACT, ROUNDED, assert_same_weights
from float64 import in_float64
from published import PUBLISHED, WORDS, Reference, make, write_parts
from torch import Tensor
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, TrialConfig, from_flat
from trainables.data.transforms import fit
from trainables.errors import ConfigError, DataError, WeightsUnavailable
from trainables.models.adapters.adapter_files import load_adapter, save_adapter
from trainables.models.adapters.check_targets import check_targets
from trainables.models.adapters.liveness import prove_alive
from trainables.models.adapters.lora import attach, merge
from trainables.models.adapters.targets import planned_targets
from trainables.models.catalogue.registry import ENCODERS, FAMILIES, encoder_fingerprint, preprocessing_of
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.encoders.structure import _built
from trainables.models.files.state_dicts import load_strictly
from trainables.models.files.weights import HOME_VARIABLE

pytestmark = pytest.mark.kernels

TEXTS = ["Clear lung.", "patchy opacity in both lower zones, of an uncertain age"]


class References(dict[str, Reference]):
    """Checkpoints that are made when they are first asked for, where `models convert` would have put them."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def __missing__(self, name: str) -> Reference:
        self[name] = make(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(HOME_VARIABLE, str(self.home))
            write_parts(name, self[name].parts)
        return self[name]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("home"))


@pytest.fixture
def here(references: References, monkeypatch: pytest.MonkeyPatch) -> References:
    monkeypatch.setenv(HOME_VARIABLE, str(references.home))
    return references


@pytest.fixture(params=list(PUBLISHED))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


QUICK = ("medclip-vit", "biovil")
"""One of each kind of image tower and head; the others take the same ways, and run in `make check`."""
SOME = [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in PUBLISHED]
some_names = pytest.mark.parametrize("name", SOME)


def config_of(name: str, reference: Reference, **values: object) -> TrialConfig:
    return from_flat({"encoder.name": name, "encoder.image_size": reference.size, **values})


@pytest.fixture
def encoder(name: str, here: References) -> DualEncoder:
    return load_dual_encoder(config_of(name, here[name]).encoder)


@torch.no_grad()
def embed(encoder: DualEncoder, images: Tensor) -> Tensor:
    return torch.cat([encoder.encode_image(images).joint, encoder.encode_text(encoder.tokenize(TEXTS))])


@torch.no_grad()
def test_embeddings_equal_those_of_its_authors_at_every_cut(
    encoder: DualEncoder, name: str, here: References, images_for: Callable[..., Tensor]
) -> None:
    pixels = in_float64(encoder).pixels(images_for(encoder, 3))
    pooled, joint = here[name].image(pixels)
    assert (encoder.pooled_dim, encoder.joint_dim) == (pooled.shape[1], joint.shape[1])
    scale = pooled.abs().max()
    for cut in range(len(encoder.blocks("image")) + 1):
        found = encoder.encode_image_suffix(encoder.encode_image_prefix(pixels, cut), cut)
        torch.testing.assert_close(found.pooled / scale, pooled / scale, **EXACT)
        torch.testing.assert_close(found.joint, normalize(joint, dim=-1), **EXACT)
    tokens = encoder.tokenize(TEXTS)
    for row, length in enumerate(tokens.attention_mask.sum(1)):  # alone, without padding
        theirs = normalize(here[name].text(tokens.input_ids[row : row + 1, :length]), dim=-1)
        torch.testing.assert_close(encoder.encode_text(tokens)[row : row + 1], theirs, **EXACT)
    assert not torch.allclose(found.joint[0], found.joint[1], atol=1e-4)


@torch.no_grad()
def test_an_item_is_embedded_alike_alone_and_in_a_batch(
    encoder: DualEncoder, images_for: Callable[..., Tensor]
) -> None:
    images = images_for(in_float64(encoder), 3)
    alone = torch.cat([encoder.encode_image(image[None]).joint for image in images])
    torch.testing.assert_close(encoder.encode_image(images).joint, alone, **EXACT)
    texts = torch.cat([encoder.encode_text(encoder.tokenize([text])) for text in TEXTS])
    torch.testing.assert_close(encoder.encode_text(encoder.tokenize(TEXTS)), texts, **EXACT)


@some_names
def test_every_preset_is_alive_at_its_published_name(
    encoder: DualEncoder, name: str, here: References, images_for: Callable[..., Tensor]
) -> None:
    images, tokens = images_for(encoder), encoder.tokenize(TEXTS)
    for tower in ("image", "text"):
        for preset in FAMILIES[encoder.family].tower(tower).presets:
            values = {"lora.towers": tower, "lora.target_modules": preset, "lora.rank": 2}
            config = config_of(name, here[name], **values, **{"lora.num_blocks": None})
            check_targets(config)
            fresh = load_dual_encoder(config.encoder)
            prove_alive(fresh, attach(fresh, config), images, tokens)


@some_names
def test_adapters_merge_and_come_back_from_disk(
    encoder: DualEncoder,
    name: str,
    here: References,
    images_for: Callable[..., Tensor],
    tmp_path: Path,
) -> None:
    config = config_of(name, here[name], **{"lora.towers": "both", "lora.num_blocks": None, "lora.rank": 2})
    images = images_for(encoder)
    before = embed(encoder, images)
    adaptation = attach(encoder, config)
    assert torch.equal(embed(encoder, images), before)
    random = torch.Generator().manual_seed(0)
    for parameter in adaptation.parameters.values():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=random))
    save_adapter(encoder, adaptation, tmp_path / "adapter", about={})
    trained = embed(encoder, images)
    assert not torch.allclose(trained, before, atol=1e-3)
    again = load_dual_encoder(config.encoder)
    load_adapter(again, tmp_path / "adapter")
    assert_same_weights(again, encoder)
    torch.testing.assert_close(embed(again, images), trained, **ROUNDED)
    merge(encoder)
    torch.testing.assert_close(embed(encoder, images), trained, rtol=0, atol=2e-5)


@some_names
def test_in_bfloat16_embeddings_hardly_move(
    name: str, here: References, images_for: Callable[..., Tensor]
) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        config = config_of(name, here[name], **{"lora.towers": "both", "encoder.precision": precision})
        encoder = load_dual_encoder(config.encoder)
        attach(encoder, config)
        found.append(embed(encoder, images_for(encoder)))
    assert found[1].dtype == torch.float32
    assert 0 < (found[0] - found[1]).abs().max() < 0.1
    assert (found[0] * found[1]).sum(1).min() > 0.99


@some_names
@pytest.mark.parametrize("spoil", ["missing", "unexpected", "shape"])
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    name: str, here: References, home: Path, spoil: str
) -> None:
    parts = {part: dict(tensors) for part, tensors in here[name].parts.items()}
    tensors = next(iter(parts.values()))
    victim = next(
        n
        for n in tensors
        if n.endswith(("layer1.0.bn2.weight", "blocks.0.norm1.bias", "layernorm_before.bias"))
    )
    if spoil == "missing":
        del tensors[victim]
    elif spoil == "unexpected":
        tensors[f"{victim}.more"] = torch.zeros(2)
    else:
        tensors[victim] = torch.zeros(3)
    write_parts(name, parts)
    problem = {"missing": "1 missing", "unexpected": "1 not expected", "shape": "1 of another shape"}[spoil]
    with pytest.raises(ConfigError, match=rf"{name}: image encoder: .*{problem} \(first: .*(norm|bn2)"):
        load_dual_encoder(config_of(name, here[name]).encoder)


@some_names
def test_a_missing_text_tensor_is_named_too(name: str, here: References, home: Path) -> None:
    parts = {part: dict(tensors) for part, tensors in here[name].parts.items()}
    tensors = list(parts.values())[-1]
    del tensors[next(n for n in tensors if n.endswith("encoder.layer.1.output.dense.weight"))]
    write_parts(name, parts)
    with pytest.raises(ConfigError, match=r"text encoder: .*first: encoder\.layer\.1\.output\.dense\.weight"):
        load_dual_encoder(config_of(name, here[name]).encoder)


@some_names
def test_weights_that_are_not_here_are_a_row_with_the_way_to_get_them(
    name: str, here: References, home: Path
) -> None:
    config = EncoderConfig(name=name)
    with pytest.raises(
        WeightsUnavailable, match=rf"not on this machine; get .*models convert .* --to {name}"
    ):
        load_dual_encoder(config)
    absent = encoder_fingerprint(config)  # a plan can name it, and its trial will say why it has no score
    assert preprocessing_of(config).size >= 224
    write_parts(name, here[name].parts)
    assert encoder_fingerprint(config) != absent


def test_changed_weights_and_a_wrong_vocabulary_are_refused(here: References, home: Path) -> None:
    config = config_of("gloria", here["gloria"]).encoder
    write_parts("gloria", here["gloria"].parts, words=[*WORDS, "more"])
    with pytest.raises(ConfigError, match=r"its vocabulary has 88 words, its weights were trained with 87"):
        load_dual_encoder(config)
    folder = write_parts("gloria", here["gloria"].parts)
    with (folder / "model" / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match="is missing or has changed"):
        load_dual_encoder(config)


def test_two_parts_may_not_name_the_same_tensor(here: References, home: Path) -> None:
    parts = {part: dict(tensors) for part, tensors in here["biovil"].parts.items()}
    parts["text"]["projector.model.3.bias"] = torch.zeros(128)
    write_parts("biovil", parts)
    with pytest.raises(ConfigError, match=r"'projector\.model\.3\.bias' is in more than one of image, text"):
        load_dual_encoder(config_of("biovil", here["biovil"]).encoder)


EXPECTED_TOKENS = {
    "medclip-vit": "[CLS] c ##l ##e ##a ##r lung . [SEP]",
    "gloria": "[CLS] c ##l ##e ##a ##r lung [SEP]",
    "biovil": "[CLS] c ##l ##e ##a ##r lung [SEP]",
    "biomedclip": "[CLS] c ##l ##e ##a ##r lung . [SEP]",
}


@pytest.mark.parametrize("name", EXPECTED_TOKENS)
def test_prompts_are_cleaned_and_cut_as_in_training(encoder: DualEncoder, name: str) -> None:
    (ids,) = encoder.tokenize([TEXTS[0]]).input_ids.tolist()
    assert " ".join(WORDS[i] for i in ids) == EXPECTED_TOKENS[name]
    longest = {"medclip-vit": 77, "gloria": 97, "biovil": 512, "biomedclip": 256}[name]
    assert encoder.tokenize(["opacity " * 600]).input_ids.shape == (1, longest)


EXPECTED_PIXELS = {
    "chexzero": "81cceb040cc1", "medclip-vit": "9db38728f161", "medclip-resnet50": "9db38728f161",
    "gloria": "f86b34530c43", "biovil": "43ad0ada3ec0", "biovil-t": "645d5af5301b",
    "biomedclip": "f0431ee1abcd",
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED_PIXELS)
def test_a_fixed_image_becomes_fixed_pixels(name: str) -> None:
    spec = preprocessing_of(EncoderConfig(name=name))
    rows, columns = np.indices((700, 900))
    film = (60 + 70 * np.sin(rows / 40) * np.cos(columns / 55) + columns / 12).astype(np.uint8)
    fitted = fit(film, spec)
    assert fitted.shape == (spec.size, spec.size)
    assert hashlib.sha256(fitted.tobytes()).hexdigest()[:12] == EXPECTED_PIXELS[name]


def test_padding_is_where_its_authors_put_it() -> None:
    """CheXzero normalises black borders too: to -1.216, not to 0."""
    spec = preprocessing_of(EncoderConfig(name="chexzero"))
    assert (0 - spec.mean[0]) / spec.std[0] == pytest.approx(-1.216, abs=1e-3)


LEFT_OUT = {"gloria": 1024 * 768, "biovil-t": 2_049_000 + 1_186_048}
"""Of the image encoder: regions; ImageNet's classifier and what compares two images."""
PUBLISHED_IMAGE_ENCODERS = {  # with its projection
    "medclip-vit": 27_519_354 + 768 * 512, "medclip-resnet50": 23_508_032 + 2048 * 512, "gloria": 25_868_096,
    "biovil": 23_508_032 + 278_912, "biovil-t": 27_349_928, "biomedclip": 86_191_872,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_shape_has_the_published_size(name: str, home: Path) -> None:
    structure = _built(EncoderConfig(name=name))
    image = structure.tower_parameters["image"] + LEFT_OUT.get(name, 0)
    assert image == PUBLISHED_IMAGE_ENCODERS[name]
    assert structure.num_parameters == ENCODERS[name].num_parameters
    assert structure.image_size == preprocessing_of(EncoderConfig(name=name)).size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tower", "preset", "expected"),
    [
        ("medclip-vit", "image", "qv", 70_656),
        ("biomedclip", "image", "qkv", 147_456),
        ("biomedclip", "image", "all", 589_824),
        ("gloria", "text", "qv", 147_456),
        ("biovil", "text", "qv", 147_456),
    ],
)
def test_presets_train_as_many_weights_as_counted_elsewhere(
    name: str, tower: str, preset: str, expected: int, home: Path
) -> None:
    values = {"lora.towers": tower, "lora.target_modules": preset, "lora.num_blocks": None, "lora.rank": 4}
    config = from_flat({"encoder.name": name, **values})
    structure = _built(config.encoder)
    (targets,) = planned_targets(config, structure).values()
    assert sum(structure.find(target).num_parameters(4) for target in targets) == expected


def test_what_may_be_left_out_is_written_down() -> None:
    module = torch.nn.Linear(2, 2)
    extra = {**module.state_dict(), "old.position_ids": torch.zeros(1), "cls.bias": torch.zeros(1)}
    load_strictly(module, extra, where="here", ignorable=("position_ids", "cls."))
    with pytest.raises(ConfigError, match=r"here: .* 1 not expected \(first: cls\.bias\)"):
        load_strictly(module, extra, where="here", ignorable=("position_ids",))
