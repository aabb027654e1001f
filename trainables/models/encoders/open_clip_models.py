"""CLIPs of open_clip: vision transformers and ResNets (Ilharco et al. 2021; Radford et al. 2021)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.catalogue.registry import hub_checkpoint, preprocessing_of
from trainables.models.catalogue.repositories import tag_repository
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.attention import split_attention
from trainables.models.encoders.dual_encoder import (
    ImageFeatures,
    Tokens,
    TowerName,
    TwoTowerEncoder,
    unit_length,
)
from trainables.models.encoders.open_clip_towers import VisionTransformerTower, resnet_tower
from trainables.models.files.checkpoints import (
    checkpoint_folder,
    local_folder,
    openai_file,
    sha256_asked,
    split_open_clip,
)
from trainables.models.files.openai_files import openai_architecture, read_tensors, shapes_of
from trainables.models.files.state_dicts import load_strictly
from trainables.models.torchvision_import import declare_missing_operators
from trainables.places import found

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.


class OpenClip(TwoTowerEncoder):
    """A CLIP of open_clip with a vision transformer or a ResNet. Its attention is split into q, k, v and out.

    `pooled` is the input of the projection: the class token, or the result of attention pooling.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        visual, self.log_logit_scale = model.visual, model.logit_scale
        # open_clip's projections are matrices [width, D], or the last layer of a ResNet's pooling.
        # As modules, they have names.
        if _is_resnet(visual):
            self.image_projection = visual.attnpool.c_proj
            self.image = resnet_tower(visual)
        else:
            self.image_projection = _as_linear(visual.proj)
            visual.proj = None
            self.image = VisionTransformerTower(visual)
        self.text_projection = _as_linear(model.text_projection)
        split_attention(model.transformer)
        model.visual = model.text_projection = model.logit_scale = None
        self.text = model
        self.tokenizer = tokenizer
        self.pooled_dim = self.image_projection.in_features
        self.joint_dim = self.image_projection.out_features

    def projections(self) -> dict[TowerName, str]:
        """Returns both projections."""
        return {"image": "image_projection", "text": "text_projection"}

    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns both towers."""
        return {"image": ("image.", "image_projection."), "text": ("text.", "text_projection.")}

    def project_image(self, outputs: Tensor) -> ImageFeatures:
        """Returns the pooled features and their projection."""
        return ImageFeatures(outputs, unit_length(self.image_projection(outputs)))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns joint embeddings [B, D], unit length."""
        pooled = self.text.encode_text(tokens.input_ids.to(self.log_logit_scale.device))
        return unit_length(self.text_projection(pooled))

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens padded to the context length, which open_clip's causal mask requires."""
        ids = self.tokenizer(texts, context_length=self.text.context_length)
        return Tokens(ids, (ids != 0).long())


def load_open_clip(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> OpenClip:
    """Loads a CLIP of open_clip, or of OpenAI's files, from safetensors or a `.pt` with a known hash."""
    declare_missing_operators()
    file = _weights_file(config, spec) if weights else None  # before a large model is built
    model, tokenizer = _build(config, spec, preprocessing_of(config).size)
    if file is not None:
        _fill(model, read_tensors(file, _sha256(config, spec)), file)
    return OpenClip(model.eval(), tokenizer)


def _build(config: EncoderConfig, spec: EncoderSpec, size: int) -> tuple[Any, Any]:
    """Returns a model with random weights and its tokenizer."""
    import open_clip

    if config.name.startswith("openai:"):
        path = openai_file(config.name)
        architecture = openai_architecture(shapes_of(path, sha256_asked(config.revision)), path)
        architecture["vision_cfg"]["image_size"] = size
        return open_clip.CLIP(**architecture), open_clip.SimpleTokenizer()
    name = spec.architecture
    if name is None:
        name, source = split_open_clip(config.name)
        if source and not found(source).is_file():
            tag_repository(name, source)
    known_as = f"local-dir:{folder}" if (folder := local_folder(name)) else name
    with _quiet():
        model = open_clip.create_model(
            known_as,
            load_weights=False,
            force_image_size=size,
            pretrained_text=False,
            device=torch.get_default_device(),
        )
        tokenizer = open_clip.get_tokenizer(known_as)
    is_cut = _is_resnet(model.visual) or hasattr(model.visual, "transformer")
    if type(model) is not open_clip.CLIP or not is_cut:
        raise ConfigError(
            f"encoder.name: '{config.name}' is not a CLIP with open_clip's own vision transformer or "
            "ResNet; only these are supported"
        )
    return model, tokenizer


def _fill(model: Any, tensors: dict[str, Tensor], file: Path) -> None:
    """Copies all tensors into a model, and checks that no weight stays random."""
    from open_clip.model import resize_pos_embed

    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    if "logit_scale" in tensors:
        tensors["logit_scale"] = tensors["logit_scale"].reshape(model.logit_scale.shape)
    resize_pos_embed(tensors, model)
    if _is_resnet(model.visual):
        _stretch_pooling(tensors, model)
    load_strictly(model, tensors, where=file)


def _stretch_pooling(tensors: dict[str, Tensor], model: Any) -> None:
    """Interpolates the positions of the attention pooling, as `resize_pos_embed` does for a transformer."""
    name, wanted = "visual.attnpool.positional_embedding", model.visual.attnpool.positional_embedding
    if name not in tensors or len(tensors[name]) == len(wanted):
        return
    mean, places = tensors[name][:1], tensors[name][1:]
    old, new = (round(len(places) ** 0.5), round((len(wanted) - 1) ** 0.5))
    grid = places.T.reshape(1, -1, old, old)
    stretched = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    tensors[name] = torch.cat([mean, stretched.flatten(2)[0].T])


def _weights_file(config: EncoderConfig, spec: EncoderSpec) -> Path:
    """Returns the file with the weights of an encoder: a local, cached, or downloaded file."""
    if config.name.startswith("openai:"):
        return openai_file(config.name)
    if spec.repository:
        return _safetensors_in(hub_checkpoint(config, spec))
    architecture, source = split_open_clip(config.name)
    if source is None:
        return _safetensors_in(found(architecture))
    if (file := found(source)).is_file():
        return file
    return _safetensors_in(checkpoint_folder(tag_repository(architecture, source), config.revision))


def _sha256(config: EncoderConfig, spec: EncoderSpec) -> str | None:
    """Returns the hash that the file must have, if one is known."""
    if spec.repository:
        return spec.sha256 if config.revision in (None, spec.revision) else None
    _, _, source = config.name.rpartition("@")
    is_file = config.name.startswith("openai:") or found(source).is_file()
    return sha256_asked(config.revision) if is_file else None


def _safetensors_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    # A repository may also contain the same weights for transformers.
    files = [file for file in files if file.name.startswith("open_clip")] or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise WeightsUnavailable(f"{folder}: needs one safetensors file, found {names}; pickles are not read")
    return files[0]


def _is_resnet(visual: Any) -> bool:
    from open_clip.modified_resnet import ModifiedResNet

    return isinstance(visual, ModifiedResNet)


def _as_linear(matrix: nn.Parameter) -> nn.Linear:
    linear = nn.Linear(*matrix.shape, bias=False)
    linear.weight = nn.Parameter(matrix.detach().T.contiguous())
    return linear


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences open_clip, which logs every step and needless warnings on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
