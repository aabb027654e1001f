"""The configuration of one trial, with all blocks of settings. This module does not need torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from trainables.config.base import Config
from trainables.config.blocks import (
    AdaptConfig,
    BaselineConfig,
    CaptionerConfig,
    DataConfig,
    EncoderConfig,
    ExecutionConfig,
    LoraConfig,
    LossConfig,
    OptimConfig,
    ProbeConfig,
    ZeroShotConfig,
)


class TrialConfig(Config):
    """The configuration of one trial: all settings that a trainable needs."""

    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    adapt: AdaptConfig = AdaptConfig()
    baseline: BaselineConfig = BaselineConfig()
    lora: LoraConfig = LoraConfig()
    optim: OptimConfig = OptimConfig()
    loss: LossConfig = LossConfig()
    probe: ProbeConfig = ProbeConfig()
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    captioner: CaptionerConfig = CaptionerConfig()
    global_batch_size: int = Field(
        default=80, description="Pairs per optimiser step, summed over all workers."
    )
    num_epochs: int = Field(default=10, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0)
    execution: ExecutionConfig = ExecutionConfig()

    @field_validator("global_batch_size")
    @classmethod
    def _a_pair_to_contrast_with(cls, value: int) -> int:
        if value < 2:
            raise ValueError(
                f"global_batch_size={value}: must be at least 2, "
                "a contrastive loss needs a pair to contrast with"
            )
        return value

    @model_validator(mode="after")
    def _what_trains_is_in_float32(self) -> Self:
        if self.adapt.method == "full" and self.encoder.precision == "bfloat16":
            raise ValueError(
                "encoder.precision=bfloat16 is for frozen weights, and adapt.method=full freezes none; "
                "set it to float32"
            )
        return self

    @model_validator(mode="after")
    def _compares_captions_that_are_known(self) -> Self:
        if self.reads_reports and self.loss.kind == "soft_target" and self.loss.positives == "caption":
            raise ValueError(
                "loss.positives=caption: soft_target compares captions that are known before training, and "
                "data.captions=report draws new ones; use loss.positives=class, or loss.kind=multi_positive"
            )
        return self

    @property
    def is_baseline(self) -> bool:
        """True if the trial trains an image classifier instead of a dual encoder."""
        return self.adapt.method == "baseline"

    @property
    def data_to_read(self) -> DataConfig:
        """The settings of the data that the trial reads. Unused settings of captions have their defaults."""
        unread = [] if self.reads_captions else ["captions"]
        unread += [] if self.adapts_elsewhere else ["adapt_on"]
        unread += [] if self.reads_reports else ["report_sections", "report_sentences", "drop_comparisons"]
        return self.data.model_copy(update={name: DataConfig.model_fields[name].default for name in unread})

    @property
    def model_to_load(self) -> EncoderConfig | BaselineConfig:
        """The settings of the model that the trial starts from."""
        return self.baseline if self.is_baseline else self.encoder

    @property
    def model_name(self) -> str:
        """The name of the model that the trial starts from."""
        return self.baseline.architecture if self.is_baseline else self.encoder.name

    @property
    def reads_captions(self) -> bool:
        """True if the trial trains on captions."""
        return not (self.adapt.method in ("none", "baseline") or self.loss.asks_for_classes)

    @property
    def adapts_elsewhere(self) -> bool:
        """True if the adapter is trained on another data set than the scored one."""
        return self.adapt.method not in ("none", "baseline") and self.data.adapt_on.dataset is not None

    @property
    def reads_reports(self) -> bool:
        """True if the trial trains on sentences of reports."""
        return self.reads_captions and self.data.captions == "report"

    @property
    def reads_words(self) -> bool:
        """True if the trial reads the words of the classes, as captions or as prompts."""
        trains_on_words = self.adapt.method != "none" and self.loss.kind != "cross_entropy"
        return not self.is_baseline and (trains_on_words or bool(self.zero_shot.prompts))

    @property
    def needs_captioner(self) -> bool:
        """True if the trial needs a captioner for its captions."""
        return self.reads_captions and self.data.captions == "blip_label"
