"""The description of an encoder's trainable part that `attach` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from trainables.models.encoder_spec import TowerName


@dataclass(frozen=True)
class Adaptation:
    """The trainable part of an encoder.

    Attributes:
        method: `adapt.method`.
        parameters: all trainable parameters by their name in the encoder, in a stable order.
        targets: modules with an adapter, by tower.
        image_cut: number of the lowest image block that trains. Activations of the blocks below never change.
    """

    method: str
    parameters: dict[str, nn.Parameter]
    targets: dict[TowerName, list[str]]
    image_cut: int
    adapts_image: bool
    adapts_text: bool

    @property
    def num_trainable(self) -> int:
        """Returns the number of trainable scalars."""
        return sum(parameter.numel() for parameter in self.parameters.values())
