"""Trials in float64, where training over other ranks, cuts or kernels agrees to rounding.

In float32 it does not: a ReLU or AdamW turns the rounding of a value near 0 into another step, and the curves
part. `python float64.py TRAINABLE …` is `python -m trainables TRAINABLE …` in float64.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainables.__main__ import main
from trainables.config import TrialConfig
from trainables.models.adapters.adaptation import Adaptation
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.classifiers import load_classifier
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.training import classifier_loop, trial_setup
from trainables.training.classifier_loop import class_weights

SAME = 1e-9
"""Of losses and weights after tens of steps. Rounding of 2e-16 grew to 1e-14 in them; a bug moves 1e-4."""


def in_float64(encoder: DualEncoder) -> DualEncoder:
    """Returns the encoder with its weights, and from now on its arithmetic, in float64."""
    encoder.double()
    encoder.dtype = torch.float64
    return encoder


def attach_in_float64(encoder: DualEncoder, config: TrialConfig) -> Adaptation:
    """Attaches adapters as every trial does."""
    adaptation = attach(encoder, config)
    in_float64(encoder)
    return adaptation


def load_classifier_in_float64(*arguments: Any, **options: Any) -> nn.Module:
    """Loads a classifier as every baseline does; it takes pixels of any precision."""
    model = load_classifier(*arguments, **options).double()
    model.register_forward_pre_hook(lambda _, pixels: (pixels[0].double(),))
    return model


def trials_in_float64(patch: pytest.MonkeyPatch) -> None:
    """Makes every trial of this process compute in float64; give it a store of its own."""
    patch.setattr(trial_setup, "attach", attach_in_float64)
    patch.setattr(classifier_loop, "load_classifier", load_classifier_in_float64)
    patch.setattr(classifier_loop, "class_weights", lambda *of: class_weights(*of).astype(np.float64))


if __name__ == "__main__":
    trials_in_float64(pytest.MonkeyPatch())
    sys.exit(main())
