"""Narrow checkpoints as the authors of medical encoders publish theirs, with their forward passes.

Key names and arithmetic are those of the original packages, written here with torchvision, timm and
transformers; widths are small and weights random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.artifacts import atomic_directory
from trainables.models.files.weights import encoder_folder
from trainables.models.torchvision_import import declare_missing_operators

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-.,'"
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *(f"##{x}" for x in LETTERS),
    "lung",
    "opacity",
]


@dataclass
class Reference:
    """A checkpoint by part in float32; its authors' forward passes of pixels and of one text in float64."""

    parts: dict[str, dict[str, Tensor]]
    image: Callable[[Tensor], tuple[Tensor, Tensor]]  # → pooled, joint (not normalised)
    text: Callable[[Tensor], Tensor]  # [1, L] → joint (not normalised)
    modules: list[nn.Module]  # that `image` and `text` call
    size: int = 64

    def __post_init__(self) -> None:
        for module in self.modules:
            module.double()


def write_parts(name: str, parts: dict[str, dict[str, Tensor]], *, words: list[str] = WORDS) -> Path:
    """Puts parts and a vocabulary where `models convert` puts them."""
    for part, tensors in parts.items():
        with atomic_directory(encoder_folder(name) / part) as aside:
            save_file(
                {n: t.detach().clone().contiguous() for n, t in tensors.items()}, aside / "model.safetensors"
            )
    with atomic_directory(encoder_folder(name) / "vocabulary") as aside:
        (aside / "vocab.txt").write_text("\n".join(words) + "\n")
    return encoder_folder(name)


def narrow_resnet(last: nn.Module) -> Any:
    from torchvision.models.resnet import Bottleneck, ResNet

    net = ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=4)
    net.fc = last
    return livelier(net)


def narrow_bert(*, pooler: bool) -> Any:
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 96, "num_hidden_layers": 2}
    return livelier(BertModel(BertConfig(vocab_size=len(WORDS), **shape), add_pooling_layer=pooler))


def livelier(model: Any) -> Any:
    """Gives a model weights so large that images and texts differ, and statistics that are not 0."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif tensor.is_floating_point() and tensor.dim() > 1:
            tensor.mul_(2)
    return model


def all_states(bert: Any, ids: Tensor) -> tuple[Tensor, ...]:
    return bert(input_ids=ids, output_hidden_states=True).hidden_states


def feature_map(net: Any, pixels: Tensor) -> Tensor:
    stem = net.maxpool(F.relu(net.bn1(net.conv1(pixels))))
    return net.layer4(net.layer3(net.layer2(net.layer1(stem))))


def named(**modules: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of modules, below their names with `__` for a dot."""
    return {
        f"{prefix.replace('__', '.')}.{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def medclip(
    vision: dict[str, Tensor],
    image: Callable[[Tensor], tuple[Tensor, Tensor]],
    modules: list[nn.Module],
    size: int,
) -> Reference:
    bert, head = narrow_bert(pooler=True), nn.Linear(64, 16, bias=False)

    def text(ids: Tensor) -> Tensor:
        states = all_states(bert.eval(), ids)
        return head(torch.stack([states[1], states[2], states[-1]]).mean(0).mean(1))

    tensors = {
        **vision,
        **named(text_model__model=bert, text_model__projection_head=head),
        "text_model.model.embeddings.position_ids": torch.arange(512)[None],
        "logit_scale": torch.tensor(3.0),
    }
    return Reference({"model": tensors}, image, text, [*modules, bert, head], size)


def medclip_vit() -> Reference:
    from transformers import SwinConfig, SwinModel

    swin = SwinModel(SwinConfig(image_size=56, embed_dim=12, depths=[2, 1], num_heads=[2, 3])).eval()
    livelier(swin)
    head = nn.Linear(24, 16, bias=False)
    with TemporaryDirectory() as folder:
        swin.save_pretrained(folder)  # under the names that transformers had when MedCLIP was trained
        old = load_file(Path(folder) / "model.safetensors")
    old["encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.zeros(49, 49).long()
    vision = {f"vision_model.model.{name}": tensor for name, tensor in old.items()}
    vision |= named(vision_model__projection_head=head)

    def image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled = swin(pixels).pooler_output
        return pooled, head(pooled)

    return medclip(vision, image, [swin, head], size=56)


def medclip_resnet50() -> Reference:
    net = narrow_resnet(nn.Linear(2048, 16, bias=False)).eval()

    def image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return feature_map(net, pixels).mean((2, 3)), net(pixels)

    return medclip(named(vision_model__model=net), image, [net], size=64)


def gloria() -> Reference:
    net, bert = narrow_resnet(nn.Identity()).eval(), narrow_bert(pooler=True).eval()
    embed, local = nn.Linear(2048, 64), nn.Conv2d(1024, 64, 1, bias=False)

    def image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled = net(nn.Upsample(size=(299, 299), mode="bilinear", align_corners=True)(pixels))
        return pooled, embed(pooled)

    def text(ids: Tensor) -> Tensor:
        summed = torch.stack(all_states(bert, ids)[-4:])  # of two layers and the embeddings: three
        return summed.sum(2).sum(0) / 97

    tensors = named(
        gloria__img_encoder__model=net, gloria__img_encoder__global_embedder=embed,
        gloria__img_encoder__local_embedder=local, gloria__text_encoder__model=bert,
    )  # fmt: skip
    return Reference({"model": tensors}, image, text, [net, bert, embed])


def biovil(*, with_prior: bool = False) -> Reference:
    net, bert = narrow_resnet(nn.Linear(2048, 10)).eval(), narrow_bert(pooler=False).eval()
    narrow, missing = nn.Conv2d(2048, 256, 1, bias=False), 0.1 * torch.randn(1, 256, 1, 1)
    channels = 512 if with_prior else 2048
    model = nn.Sequential(
        nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 1)
    ).eval()
    hidden, norm, out = nn.Linear(64, 128), nn.LayerNorm(128, eps=1e-12), nn.Linear(128, 128)

    def image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = feature_map(net, pixels)
        if with_prior:
            patches = narrow(patches)
            patches = torch.cat([patches, missing.repeat(len(patches), 1, *patches.shape[2:])], 1)
        return patches.mean((2, 3)), model(patches).mean((2, 3))

    def text(ids: Tensor) -> Tensor:
        return out(norm(F.gelu(hidden(bert(input_ids=ids).last_hidden_state[:, 0]))))

    images = named(encoder__encoder=net, projector__model=model)
    if with_prior:
        images |= named(encoder__backbone_to_vit=narrow)
        images |= {
            "encoder.missing_previous_emb": missing,
            "encoder.vit_pooler.type_embed": torch.zeros(2, 1, 256),
        }
    texts = named(
        bert=bert, cls_projection_head__dense_to_hidden=hidden, cls_projection_head__LayerNorm=norm,
        cls_projection_head__dense_to_output=out,
    )  # fmt: skip
    texts["cls.predictions.bias"] = torch.zeros(len(WORDS))
    modules = [net, bert, narrow, model, hidden, norm, out]
    return Reference({"image": images, "text": texts}, image, text, modules)


def biomedclip() -> Reference:
    import timm

    vit = timm.create_model(
        "vit_base_patch16_224",
        pretrained=False,
        num_classes=0,
        embed_dim=64,
        depth=2,
        num_heads=1,
        img_size=64,
    ).eval()
    livelier(vit)
    head, bert = nn.Linear(64, 16, bias=False), narrow_bert(pooler=False).eval()
    project = nn.Sequential(nn.Linear(64, 40, bias=False), nn.GELU(), nn.Linear(40, 16, bias=False))

    def image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled = vit(pixels)
        return pooled, head(pooled)

    def text(ids: Tensor) -> Tensor:
        return project(bert(input_ids=ids).last_hidden_state[:, 0])

    tensors = named(visual__trunk=vit, visual__head__proj=head, text__transformer=bert, text__proj=project)
    parts = {"model": {**tensors, "logit_scale": torch.tensor(4.0)}}
    return Reference(parts, image, text, [vit, head, bert, project])


PUBLISHED: dict[str, Callable[[], Reference]] = {
    "medclip-vit": medclip_vit,
    "medclip-resnet50": medclip_resnet50,
    "gloria": gloria,
    "biovil": biovil,
    "biovil-t": lambda: biovil(with_prior=True),
    "biomedclip": biomedclip,
}


def make(name: str) -> Reference:
    """Makes a checkpoint, the same every time."""
    declare_missing_operators()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PUBLISHED[name]()
