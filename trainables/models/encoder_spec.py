"""The description of an encoder, and of its family. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainables.config import PreprocessingSpec

TowerName = Literal["image", "text"]


@dataclass(frozen=True)
class Tower:
    """The modules of an image or text tower that LoRA can adapt.

    Attributes:
        presets: name → regular expressions. A module is adapted if one of them matches its name after a dot.
        outline: adaptable modules of each top-level block; None if they depend on the checkpoint.
    """

    presets: dict[str, tuple[str, ...]]
    outline: tuple[tuple[str, ...], ...] | None = None

    def leaf_names(self) -> list[str]:
        """Returns the leaf names of adaptable modules that are known without the checkpoint."""
        known = [self.presets["all"]] if self.outline is None else self.outline
        return list(dict.fromkeys(name.rsplit(".", 1)[-1] for names in known for name in names))


@dataclass(frozen=True)
class Family:
    """The facts that all encoders of one architecture share.

    Attributes:
        loader: "module:function" of (EncoderConfig, EncoderSpec, *, weights: bool) -> DualEncoder.
        keeps_derived: whether the loader also takes `store`, to save what it computes from the weights.
        has_known_names: whether all checkpoints have the same module names; if not, a plan builds the
        encoder.
    """

    loader: str
    image: Tower
    text: Tower
    preprocessing: PreprocessingSpec
    learning_rate: float = 2e-4
    learning_rate_range: tuple[float, float] = (1e-5, 2e-3)
    keeps_derived: bool = False
    has_known_names: bool = True
    full_learning_rate: float = 1e-5  # for method `full`, which trains all weights

    def tower(self, name: TowerName) -> Tower:
        """Returns the image tower or the text tower."""
        return self.image if name == "image" else self.text


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors publish it: usually a pickle, which must be converted once.

    Attributes:
        file: published file name.
        place: a Hub repository with its revision ("owner/name@v1.1"), or the page that links it.
        md5: published hash; None if no hash is published, and the user must trust a hash.
    """

    file: str
    place: str
    md5: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """The description of a registered encoder."""

    family: str
    about: str
    licence: str
    files: dict[str, str] = field(default_factory=dict)  # package file → md5, checked before loading
    revision: str | None = None  # commit on the Hub; `encoder.revision` overrides it
    version: int = 1  # raise it when our own code changes the encoder's outputs or the names in its adapters
    repository: str | None = None  # on the Hub, if not the encoder's name
    sha256: str | None = None  # of the weights at that revision, if published
    is_pinned: bool = (
        True  # False: nobody has tested a commit; `models fetch` or `encoder.revision` names one
    )
    architecture: str | None = None  # name in open_clip
    parts: dict[str, Published] = field(default_factory=dict)  # name → file that must be converted once
    vocabulary: str | None = None  # Hub repository of the tokenizer, if it is a part too
    has_configuration: bool = False  # open_clip_config.json is a part too
    preprocessing: PreprocessingSpec | None = None  # if not the family's
    has_text: bool = True  # False: no text encoder, only probes
    pretrained_on: tuple[str, ...] = ()  # names of `origins.SOURCES`; () = not known
    num_parameters: int | None = None
    pooled_dim: int | None = None
    joint_dim: int | None = None
    page: str = ""  # page of its authors
    note: str = ""  # a remark shown with the encoder
