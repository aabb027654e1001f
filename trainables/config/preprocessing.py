"""The preprocessing of images, which an encoder declares and `trainables.data` performs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trainables.config.base import Config


class PreprocessingSpec(Config):
    """The preprocessing that an encoder needs.

    `trainables.data` decodes to 8-bit grey, then windows, pads, resizes and crops, in the order of fields.
    The encoder converts uint8 to floats (mean, std, channels). No other code changes pixels.
    """

    size: int = Field(
        default=224, ge=16, le=1024, description="Height and width of the encoder's input, in pixels."
    )
    window: Literal["none", "full"] = Field(
        default="none", description="full = the darkest pixel becomes 0, and the brightest 255."
    )
    pad: Literal["none", "before", "after"] = Field(
        default="none", description="Pad to a square with black, before or after the first resizing."
    )
    oversize: float = Field(
        default=1.0, ge=1, le=4,
        description="Resize first to size × oversize: the longest side if pad=after, else the shortest.",
    )  # fmt: skip
    interpolation: Literal["bilinear", "bicubic", "lanczos", "area"] = "bicubic"
    crop: Literal["center", "none"] = Field(
        default="center",
        description="center = cut out the centre; none = resize to `size`, a second resizing being bicubic.",
    )
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    channels: Literal[1, 3] = 3

    def fitting(self) -> dict[str, Any]:
        """Returns the steps that `trainables.data` performs. Unused steps are left out of the fingerprint."""
        taken = {"size", "crop", "interpolation"}
        taken |= {name for name in ("window", "pad", "oversize") if getattr(self, name) != _default(name)}
        return self.model_dump(include=taken)

    def identity(self) -> dict[str, Any]:
        """Returns the settings that can change the input of the encoder."""
        return {**self.model_dump(mode="json", include={"mean", "std", "channels"}), **self.fitting()}


def _default(name: str) -> Any:
    return PreprocessingSpec.model_fields[name].default
