"""Descriptions of encoders and of their families. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainables.config import PreprocessingSpec

TowerName = Literal["image", "text"]


@dataclass(frozen=True)
class Tower:
    """One half of a dual encoder, as LoRA sees it.

    Attributes:
        presets: name → regular expressions, of which one matches the end of a module's name, from a dot on.
        outline: of each top-level block, the modules that can be adapted; None where the checkpoint decides.
    """

    presets: dict[str, tuple[str, ...]]
    outline: tuple[tuple[str, ...], ...] | None = None

    def leaf_names(self) -> list[str]:
        """Returns the leaf names of adaptable modules, as far as known without the checkpoint."""
        known = [self.presets["all"]] if self.outline is None else self.outline
        return list(dict.fromkeys(name.rsplit(".", 1)[-1] for names in known for name in names))


@dataclass(frozen=True)
class Family:
    """The facts that all encoders of one architecture share.

    Attributes:
        loader: "module:function" of (EncoderConfig, EncoderSpec, *, weights: bool) -> DualEncoder.
        keeps_derived: the loader also takes `store`, where it keeps what it computes from the weights.
        has_known_names: False where each checkpoint has its own; a plan then builds the structure.
    """

    loader: str
    image: Tower
    text: Tower
    preprocessing: PreprocessingSpec
    learning_rate: float = 2e-4
    learning_rate_range: tuple[float, float] = (1e-5, 2e-3)
    keeps_derived: bool = False
    has_known_names: bool = True
    full_learning_rate: float = 1e-5  # of method `full`, where every weight moves

    def tower(self, name: TowerName) -> Tower:
        """Returns one half."""
        return self.image if name == "image" else self.text


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors publish it: a pickle, to be converted once.

    Attributes:
        file: its name there.
        place: a Hub repository with its revision ("owner/name@v1.1"), or the page that links it.
        md5: as published; None where no hash is, and then a person has to trust one.
    """

    file: str
    place: str
    md5: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """One named encoder."""

    family: str
    about: str
    licence: str
    files: dict[str, str] = field(default_factory=dict)  # package file → md5, checked before loading
    revision: str | None = None  # commit on the Hub; `encoder.revision` overrides it
    version: int = 1  # raise it when our own code changes the encoder's outputs or the names in its adapters
    repository: str | None = None  # on the Hub, where it is not the encoder's name
    sha256: str | None = None  # of its weights at that revision, where published
    is_pinned: bool = (
        True  # False: nobody has tested a commit; `models fetch` or `encoder.revision` names one
    )
    architecture: str | None = None  # open_clip's name of it
    parts: dict[str, Published] = field(default_factory=dict)  # converted once, each under a name of its own
    vocabulary: str | None = None  # Hub repository of its tokenizer, where that is a part too
    has_configuration: bool = False  # its open_clip_config.json is a part too
    preprocessing: PreprocessingSpec | None = None  # where it is not the family's
    has_text: bool = True  # False: no text encoder, so probes only
    pretrained_on: tuple[str, ...] = ()  # names of `origins.SOURCES`; () = not known
    num_parameters: int | None = None
    pooled_dim: int | None = None
    joint_dim: int | None = None
    page: str = ""  # where its authors describe it
    note: str = ""  # a remark for readers of its row
