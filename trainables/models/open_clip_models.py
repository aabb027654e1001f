"""Vision transformers of open_clip, as they are, with fused attention (Ilharco et al. 2021)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.checkpoints import checkpoint_folder, local_folder, split_open_clip
from trainables.models.dual_encoder import Blocks, DualEncoder, ImageFeatures, Tokens, TowerName, unit_length
from trainables.models.registry import EncoderSpec, encoder_fingerprint, preprocessing_of
from trainables.models.torchvision_import import declare_missing_operators
from trainables.places import found


class OpenClip(DualEncoder):
    """An open_clip model. Image block 0 is the patch embedding, the others are the attention blocks."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        # open_clip's projections are bare matrices [width, D]; as modules they have names of their own.
        self.image_projection = _as_linear(model.visual.proj)
        self.text_projection = _as_linear(model.text_projection)
        model.visual.proj = model.text_projection = None
        self.model = model
        self.tokenizer = tokenizer
        self.log_logit_scale = model.logit_scale
        self.pooled_dim = self.image_projection.in_features
        self.joint_dim = self.image_projection.out_features

    def blocks(self, tower: TowerName) -> Blocks:
        """Returns the attention blocks of a tower; the image tower's patch embedding is a block too."""
        if tower == "image":
            count = len(self.model.visual.transformer.resblocks)
            names = [f"model.visual.transformer.resblocks.{i}" for i in range(count)]
            return Blocks(("model.visual.conv1", *names))
        count = len(self.model.transformer.resblocks)
        return Blocks(tuple(f"model.transformer.resblocks.{i}" for i in range(count)))

    def projections(self) -> dict[TowerName, str]:
        """Returns both projections."""
        return {"image": "image_projection", "text": "text_projection"}

    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns both halves; open_clip's text tower lies at the root of the model."""
        text = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.")
        return {
            "image": ("model.visual.", "image_projection."),
            "text": (*(f"model.{name}" for name in text), "text_projection."),
        }

    def encode_image_prefix(self, pixels: Tensor, cut: int) -> Tensor:
        """Runs the embedding and the first `cut` - 1 attention blocks."""
        return self._run(pixels, 0, cut)

    def encode_image_suffix(self, activations: Tensor, cut: int) -> ImageFeatures:
        """Runs the other blocks and the pooling."""
        pooled = self._run(activations, cut, len(self.model.visual.transformer.resblocks) + 1)
        return ImageFeatures(pooled, unit_length(self.image_projection(pooled)))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns joint embeddings [B, D], unit length."""
        pooled = self.model.encode_text(tokens.input_ids.to(self.log_logit_scale.device))
        return unit_length(self.text_projection(pooled))

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens padded to the context length, which open_clip's causal mask has built in."""
        ids = self.tokenizer(texts)
        return Tokens(ids, (ids != 0).long())

    def _run(self, activations: Tensor, first: int, last: int) -> Tensor:
        visual = self.model.visual
        blocks = visual.transformer.resblocks
        if first == 0 < last:
            activations = visual._embeds(activations)
        for block in blocks[max(first - 1, 0) : max(last - 1, 0)]:
            activations = block(activations)
        if first < last == len(blocks) + 1:
            activations, _ = visual._pool(activations)
        return activations


def load_open_clip(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> OpenClip:
    """Loads a vision transformer of open_clip, from safetensors only.

    Raises:
        ConfigError: an unknown architecture or tag, or one that is no CLIP with a vision transformer.
        WeightsUnavailable: the safetensors are not here and cannot be fetched.
    """
    del store  # nothing is derived from the weights
    declare_missing_operators()
    import open_clip

    architecture, source = split_open_clip(config.name)
    folder = local_folder(architecture)
    preprocessing = preprocessing_of(config)
    is_tag = source is not None and not found(source).is_file()
    repository = _repository(architecture, source) if source and is_tag else None
    known_as = f"local-dir:{folder}" if folder else architecture
    with _quiet():
        model = open_clip.create_model(
            known_as, load_weights=False, force_image_size=preprocessing.size, pretrained_text=False
        )
        tokenizer = open_clip.get_tokenizer(known_as)
    if type(model) is not open_clip.CLIP or not hasattr(model.visual, "transformer"):
        raise ConfigError(
            f"encoder.name: '{config.name}' is not a CLIP with a vision transformer; no other is supported"
        )
    if weights:
        place = checkpoint_folder(repository) if repository else folder or found(source or "")
        open_clip.load_checkpoint(model, str(_weights_file(place)))
    encoder = OpenClip(model.eval(), tokenizer)
    encoder.family = spec.family
    encoder.name = config.name
    encoder.fingerprint = encoder_fingerprint(config) if weights else "random"
    encoder.preprocessing = preprocessing
    return encoder


def _weights_file(place: Path) -> Path:
    """Returns the safetensors file at a place, which open_clip's `load_checkpoint` does not unpickle."""
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    # A repository may hold the same weights for transformers as well.
    files = [file for file in files if file.name.startswith("open_clip")] or files
    if len(files) != 1 or files[0].suffix != ".safetensors":
        names = ", ".join(file.name for file in files) or "none"
        raise WeightsUnavailable(f"{place}: needs one safetensors file, found {names}; pickles are not read")
    return files[0]


def _repository(architecture: str, tag: str) -> str:
    """Returns the Hub repository of a tag, after checking that it fits the architecture."""
    import open_clip

    known = open_clip.get_pretrained_cfg(architecture, tag)
    if not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise ConfigError(
            f"encoder.name: open_clip has no weights '{tag}' of {architecture} (it has: {tags})"
        )
    if known.get("quick_gelu") and not (open_clip.get_model_config(architecture) or {}).get("quick_gelu"):
        raise ConfigError(
            f"encoder.name: the weights '{tag}' were trained with QuickGELU; name '{architecture}-quickgelu'"
        )
    if not known.get("hf_hub"):
        raise WeightsUnavailable(
            f"open_clip:{architecture}@{tag}: published as a pickle only, which is not read"
        )
    return "/".join(known["hf_hub"].split("/")[:2])


def _as_linear(matrix: nn.Parameter) -> nn.Linear:
    linear = nn.Linear(*matrix.shape, bias=False)
    linear.weight = nn.Parameter(matrix.detach().T.contiguous())
    return linear


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences open_clip, which reports every step on the root logger, warnings of no weights too."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
