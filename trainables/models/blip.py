"""BLIP (Li et al. 2022, arXiv:2201.12086): says in a sentence what is on an image. It knows no label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.artifacts import fingerprint
from trainables.config import CaptionerConfig, PreprocessingSpec
from trainables.errors import WeightsUnavailable
from trainables.models.checkpoints import (
    checkpoint_folder,
    checkpoint_json,
    from_checkpoint,
    quiet_transformers,
    weights_identity,
)
from trainables.models.torchvision_import import declare_missing_operators

REVISIONS = {"Salesforce/blip-image-captioning-base": "82a37760796d32b1411fe092ab5d4e227313294b"}
"""The commits whose configuration was looked at; their weights are a pickle, which is not read."""
PIXELS = PreprocessingSpec(
    size=384, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
IMAGES_AT_ONCE = 16


class Captioner:
    """A BLIP checkpoint on a device: greedy, so that the same images always get the same words.

    Attributes:
        preprocessing: how it wants its pixels. It was trained on squashed images; here the middle is cut out
            as for every model, which is the same where images are square.
    """

    def __init__(self, config: CaptionerConfig, device: str) -> None:
        folder = captioner_folder(config)
        declare_missing_operators()
        from transformers import AutoTokenizer, BlipForConditionalGeneration

        self.device, self.max_new_tokens = device, config.max_new_tokens
        self.model: Any = from_checkpoint(BlipForConditionalGeneration, folder).to(device)
        with quiet_transformers():
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        self.preprocessing = captioner_preprocessing(config)

    @torch.no_grad()
    def describe(self, images: np.ndarray) -> Iterator[str]:
        """Yields a sentence per image, of uint8 [N, S, S]."""
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        for start in range(0, len(images), IMAGES_AT_ONCE):
            grey = torch.from_numpy(images[start : start + IMAGES_AT_ONCE]).to(self.device)
            pixels = (grey[:, None].expand(-1, 3, -1, -1).float() / 255 - mean) / std
            tokens = self.model.generate(
                pixel_values=pixels, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1
            )
            for sentence in self.tokenizer.batch_decode(tokens, skip_special_tokens=True):
                yield " ".join(sentence.split())


def captioner_folder(config: CaptionerConfig) -> Path:
    """Returns the folder of a BLIP checkpoint with safetensors.

    Raises:
        WeightsUnavailable: it is not here; says how it is had.
    """
    try:
        return checkpoint_folder(config.name, _revision(config))
    except WeightsUnavailable as error:
        raise WeightsUnavailable(
            f"captioner.name={config.name}: no safetensors of it are here. Where there is a network, convert "
            'it once, python -c "from transformers import AutoTokenizer as T, BlipForConditionalGeneration '
            f"as B; n = '{config.name}'; B.from_pretrained(n).save_pretrained('blip'); "
            "T.from_pretrained(n).save_pretrained('blip')\", copy the folder and set captioner.name to it"
        ) from error


def captioner_fingerprint(config: CaptionerConfig) -> str:
    """Returns what identifies the words of a captioner.

    Raises:
        WeightsUnavailable: a Hub repository whose commit is not known here.
    """
    weights = weights_identity(config.name, _revision(config))
    return fingerprint("captioner", weights, captioner_preprocessing(config), config.max_new_tokens)


def captioner_preprocessing(config: CaptionerConfig) -> PreprocessingSpec:
    """Returns how a captioner wants its pixels: at the size of its `config.json`."""
    said = checkpoint_json(config.name, "config.json", revision=_revision(config)) or {}
    size = said.get("vision_config", {}).get("image_size", PIXELS.size)
    return PreprocessingSpec.model_validate({**PIXELS.model_dump(), "size": size})


def _revision(config: CaptionerConfig) -> str | None:
    return config.revision or REVISIONS.get(config.name)
