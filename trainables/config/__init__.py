"""The settings of a trial. They are immutable and strict, and need no torch, so that checks are fast."""

from trainables.config.base import Config
from trainables.config.blocks import (
    AdaptConfig,
    BaselineConfig,
    CaptionerConfig,
    CaptionKind,
    DataConfig,
    EncoderConfig,
    ExecutionConfig,
    Features,
    LoraConfig,
    LossConfig,
    LossKind,
    OptimConfig,
    PhantomConfig,
    Precision,
    ProbeConfig,
    PromptFamily,
    ReportSections,
    Shots,
    Split,
    Task,
    ZeroShotConfig,
)
from trainables.config.flat import flatten, from_flat, to_flat
from trainables.config.identity import arm_key, science, trial_key
from trainables.config.preprocessing import PreprocessingSpec
from trainables.config.trial import TrialConfig

__all__ = [
    "AdaptConfig",
    "BaselineConfig",
    "CaptionKind",
    "CaptionerConfig",
    "Config",
    "DataConfig",
    "EncoderConfig",
    "ExecutionConfig",
    "Features",
    "LoraConfig",
    "LossConfig",
    "LossKind",
    "OptimConfig",
    "PhantomConfig",
    "Precision",
    "PreprocessingSpec",
    "ProbeConfig",
    "PromptFamily",
    "ReportSections",
    "Shots",
    "Split",
    "Task",
    "TrialConfig",
    "ZeroShotConfig",
    "arm_key",
    "flatten",
    "from_flat",
    "science",
    "to_flat",
    "trial_key",
]
