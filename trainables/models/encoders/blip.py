"""BLIP (Li et al. 2022, arXiv:2201.12086), which describes an image in a sentence. It gets no label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from trainables.config import CaptionerConfig
from trainables.models.catalogue.captioners import captioner_folder, captioner_preprocessing
from trainables.models.files.checkpoints import from_checkpoint, quiet_transformers
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

IMAGES_AT_ONCE = 16


class Captioner:
    """A BLIP checkpoint on a device. It decodes greedily, so equal images always get equal words.

    Attributes:
        preprocessing: preprocessing of BLIP. BLIP was trained on squashed images, but this project crops the
            centre as for every model. For square images this is the same.
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
        """Yields a sentence per image; images are uint8 [N, S, S]."""
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
