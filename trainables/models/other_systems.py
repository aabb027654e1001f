"""What stands beside dual encoders in a comparison: baselines, captioners, methods and controls. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OtherSystem:
    """A system without a joint space of images and texts. `how` says how it is used, or why it is not."""

    kind: str
    about: str
    status: str
    how: str
    licence: str = ""
    num_parameters: int | None = None
    pretrained_on: tuple[str, ...] = ()
    page: str = ""


_ABSENT, _NOT_RUN = "unavailable", "no trainable runs it yet"
_CONTROL = "it is a control: in every sweep, beneath the table"

OTHER_SYSTEMS: dict[str, OtherSystem] = {
    "resnet18": OtherSystem(
        "supervised baseline", "torchvision ResNet-18, fine-tuned end to end", _ABSENT, _NOT_RUN,
        "BSD-3-Clause", 11_689_512, ("ImageNet",), "https://docs.pytorch.org/vision/stable/models.html",
    ),
    "vit_b_16": OtherSystem(
        "supervised baseline", "torchvision ViT-B/16, fine-tuned end to end", _ABSENT, _NOT_RUN,
        "BSD-3-Clause", 86_567_656, ("ImageNet",), "https://docs.pytorch.org/vision/stable/models.html",
    ),
    "densenet121-res224-all": OtherSystem(
        "supervised baseline", "torchxrayvision DenseNet-121", _ABSENT, _NOT_RUN,
        "Apache-2.0", None, ("NIH ChestX-ray14", "CheXpert", "MIMIC-CXR", "PadChest", "RSNA pneumonia"),
        "https://github.com/mlmed/torchxrayvision",
    ),
    "cxr-clip": OtherSystem(
        "dual encoder", "CXR-CLIP: ResNet-50 or Swin-T + BioClinicalBERT", _ABSENT, "no adapter is written",
        "CC BY-NC 4.0", None, ("CXR-CLIP",), "https://github.com/kakaobrain/cxr-clip",
    ),
    "Salesforce/blip-image-captioning-base": OtherSystem(
        "captioner", "BLIP: captions of images, with the class appended", _ABSENT, _NOT_RUN,
        "BSD-3-Clause", 223_971_644, (), "https://huggingface.co/Salesforce/blip-image-captioning-base",
    ),
    "probe": OtherSystem(
        "method", "a linear probe on any encoder's frozen or adapted embeddings", "ready",
        "run it with `python -m orchestrator run probe`",
    ),
    "label prior": OtherSystem("control", "the most frequent class", "ready", _CONTROL),
    "8 × 8 thumbnail": OtherSystem("control", "a probe on 8 × 8 pixels", "ready", _CONTROL),
    "image border": OtherSystem("control", "a probe on the border, without lungs", "ready", _CONTROL),
}  # fmt: skip
