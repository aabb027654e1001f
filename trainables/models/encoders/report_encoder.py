"""Dual encoders of radiographs and reports: an image tower with a head, and a BERT with a projection.

A loader builds the parts of an encoder, and fills each part with the published tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.models.encoder_spec import EncoderSpec, TowerName
from trainables.models.encoders.bert import BertText
from trainables.models.encoders.dual_encoder import ImageFeatures, Tokens, TwoTowerEncoder, unit_length
from trainables.models.encoders.timm_towers import ImageTower
from trainables.models.files.state_dicts import Shapes, below, load_strictly, open_parts

CLIP_LOGIT_SCALE = 1 / 0.07
"""The initial value of CLIP (§2.3), used if published weights contain no logit scale."""


class LinearHead(nn.Module):
    """A projection of pooled features [B, P]."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, outputs: Tensor) -> ImageFeatures:
        """Returns pooled features and their projection, unit length."""
        return ImageFeatures(outputs, unit_length(self.projection(outputs)))


class MapHead(nn.Module):
    """A projection of every position of a map [B, C, H, W], followed by the mean (BioViL)."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, outputs: Tensor) -> ImageFeatures:
        """Returns the mean of the map, and the mean of its projection, unit length."""
        return ImageFeatures(outputs.mean((2, 3)), unit_length(self.projection(outputs).mean((2, 3))))


class ReportEncoder(TwoTowerEncoder):
    """An image tower and a BERT. With a `MapHead`, the last image block returns a feature map."""

    def __init__(
        self,
        *,
        image: ImageTower,
        image_head: LinearHead | MapHead,
        text: BertText,
        text_projection: nn.Module | None,
        joint_dim: int,
        logit_scale: float = CLIP_LOGIT_SCALE,
    ) -> None:
        super().__init__()
        self.image = image
        self.image_head = image_head
        self.text = text
        self.text_projection = text_projection if text_projection is not None else nn.Identity()
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.pooled_dim = image.pooled_dim
        self.joint_dim = joint_dim

    def projections(self) -> dict[TowerName, str]:
        """Returns the projections; GLoRIA has none for texts."""
        image: dict[TowerName, str] = {"image": "image_head.projection"}
        has_text = any(True for _ in self.text_projection.parameters())
        return {**image, "text": "text_projection"} if has_text else image

    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns both towers."""
        return {"image": ("image.", "image_head."), "text": ("text.", "text_projection.")}

    def project_image(self, outputs: Tensor) -> ImageFeatures:
        """Returns the features that the head pools and projects."""
        return self.image_head(outputs)

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns joint embeddings [B, D], unit length."""
        on_device = Tokens(*(part.to(self.log_logit_scale.device) for part in tokens))
        return unit_length(self.text_projection(self.text(on_device)))


class PublishedTensors:
    """The tensors of an encoder's converted parts. Without weights, `fill` does nothing."""

    def __init__(self, config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> None:
        self.config, self.has_weights = config, weights
        self._tensors, self._shapes = open_parts(config, spec, weights=weights)
        self._used: list[str] = []

    def shapes(self, prefix: str = "") -> Shapes:
        """Returns the shapes of the tensors under a prefix, as far as known on this machine."""
        return below(self._shapes, prefix)

    def fill(
        self,
        module: nn.Module,
        prefix: str,
        *,
        part: str,
        names: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
        ignorable: tuple[str, ...] = (),
    ) -> None:
        """Fills a module with the tensors under a prefix; all tensors and all parameters must match.

        `names` maps the tensors, without the prefix, to their names in the module. `part` is used in
        messages.
        """
        self._used.append(prefix)
        if self.has_weights:
            where = f"{self.config.name}: {part}"
            load_strictly(module, names(below(self._tensors, prefix)), where=where, ignorable=ignorable)

    def finish(
        self, encoder: ReportEncoder, *, has_logit_scale: bool = False, ignorable: tuple[str, ...] = ()
    ) -> ReportEncoder:
        """Returns the filled encoder; only a logit scale and ignorable tensors may be left over."""
        if self.has_weights:
            scale = {"logit_scale": encoder.log_logit_scale} if has_logit_scale else {}
            rest = {n: t for n, t in self._tensors.items() if not n.startswith(tuple(self._used))}
            load_strictly(nn.ParameterDict(scale), rest, where=self.config.name, ignorable=ignorable)
        return encoder
