"""Systems other than dual encoders: baselines, captioners, methods and controls. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.config import BaselineConfig, CaptionerConfig, PreprocessingSpec
from trainables.models.catalogue.availability import Availability
from trainables.models.catalogue.captioners import PIXELS, REVISIONS, missing_captioner
from trainables.models.catalogue.classifiers import classifier_preprocessing, missing_classifier
from trainables.shell import command


@dataclass(frozen=True)
class OtherSystem:
    """A system without a joint space of images and texts.

    Attributes:
        kind: role in the comparison.
        about: description in one line.
        how: how to use the system, or why it cannot be used.
        model: model with its weights; None = the system has no weights, or no trainable runs it.
        is_run: whether a trainable runs the system.
    """

    kind: str
    about: str
    how: str
    model: BaselineConfig | CaptionerConfig | None = None
    is_run: bool = True
    licence: str = ""
    num_parameters: int | None = None
    pooled_dim: int | None = None
    joint_dim: None = None
    has_text: None = None
    pretrained_on: tuple[str, ...] = ()
    page: str = ""

    def availability(self) -> Availability:
        """Returns whether the system can be used without a network, and how."""
        if not self.is_run:
            return Availability("unavailable", self.how)
        if missing := self._missing():
            return Availability("unavailable", "its weights are not on this machine", (missing,))
        return Availability("in cache" if self.model else "ready", self.how)

    def _missing(self) -> str | None:
        match self.model:
            case BaselineConfig():
                return missing_classifier(self.model)
            case CaptionerConfig():
                return missing_captioner(self.model)
            case None:
                return None

    @property
    def preprocessing(self) -> PreprocessingSpec | None:
        """Returns the preprocessing; None for a method, a control, or a system that is not run."""
        match self.model:
            case BaselineConfig():
                return classifier_preprocessing(self.model)
            case CaptionerConfig():
                return PIXELS
            case None:
                return None

    @property
    def revision(self) -> str | None:
        """Returns the commit of the weights on the Hub; None for weights from elsewhere."""
        return REVISIONS.get(self.model.name) if isinstance(self.model, CaptionerConfig) else None


_BASELINE, _CONTROL = "supervised baseline", "it is a control; every sweep shows it below the table"
_TORCHVISION = "https://docs.pytorch.org/vision/stable/models.html"

OTHER_SYSTEMS: dict[str, OtherSystem] = {
    "resnet18": OtherSystem(
        _BASELINE, "torchvision ResNet-18, fine-tuned end to end",
        "an arm with adapt.method: baseline and baseline.architecture: resnet18",
        BaselineConfig(architecture="resnet18"), licence="BSD-3-Clause", num_parameters=11_689_512,
        pooled_dim=512, pretrained_on=("ImageNet",), page=_TORCHVISION,
    ),
    "vit_b_16": OtherSystem(
        _BASELINE, "torchvision ViT-B/16, fine-tuned end to end",
        "an arm with adapt.method: baseline and baseline.architecture: vit_b_16",
        BaselineConfig(architecture="vit_b_16"), licence="BSD-3-Clause", num_parameters=86_567_656,
        pooled_dim=768, pretrained_on=("ImageNet",), page=_TORCHVISION,
    ),
    "densenet121-res224-all": OtherSystem(
        _BASELINE, "torchxrayvision DenseNet-121", "no trainable runs it yet", is_run=False,
        licence="Apache-2.0",
        pretrained_on=("NIH ChestX-ray14", "CheXpert", "MIMIC-CXR", "PadChest", "RSNA pneumonia"),
        page="https://github.com/mlmed/torchxrayvision",
    ),
    "cxr-clip": OtherSystem(
        "dual encoder", "CXR-CLIP: ResNet-50 or Swin-T + BioClinicalBERT", "no adapter is written",
        is_run=False, licence="CC BY-NC 4.0", pretrained_on=("CXR-CLIP",),
        page="https://github.com/kakaobrain/cxr-clip",
    ),
    "Salesforce/blip-image-captioning-base": OtherSystem(
        "captioner", "BLIP: captions of images, with the class appended", "set data.captions: blip_label",
        CaptionerConfig(name="Salesforce/blip-image-captioning-base"), licence="BSD-3-Clause",
        num_parameters=223_971_644, page="https://huggingface.co/Salesforce/blip-image-captioning-base",
    ),
    "probe": OtherSystem(
        "method", "a linear probe on any encoder's frozen or adapted embeddings",
        f"run it with `{command('run probe')}`",
    ),
    "label prior": OtherSystem("control", "the most frequent class", _CONTROL),
    "8 × 8 thumbnail": OtherSystem("control", "a probe on 8 × 8 pixels", _CONTROL),
    "image border": OtherSystem("control", "a probe on the border, without lungs", _CONTROL),
}  # fmt: skip
