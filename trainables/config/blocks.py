"""The blocks of settings of a trial, as frozen and strict models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["train", "val", "test"]
Features = Literal["pooled", "joint"]
Precision = Literal["float32", "bfloat16", "auto"]
LossKind = Literal["clip", "multi_positive", "soft_target", "siglip", "class_prompt", "cross_entropy"]
CaptionKind = Literal["class_template", "template", "finding", "mask_finding", "blip_label"]
PromptFamily = Literal["class_name", "template", "training", "unseen", "pair"]
Shots = Annotated[int, Field(ge=1, le=10_000)]


class Config(BaseModel):
    """Base of all configuration: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PreprocessingSpec(Config):
    """Preprocessing of an encoder: declared by it, carried out by `data` and by the encoder.

    `data` decodes to 8-bit grey, windows, pads, resizes and crops, in the order of the fields; the encoder
    turns uint8 into floats (mean, std, channels). Nothing else touches pixels.
    """

    size: int = Field(
        default=224, ge=16, le=1024, description="Height and width in pixels that the encoder sees."
    )
    window: Literal["none", "full"] = Field(
        default="none", description="full = darkest to brightest pixel become 0 to 255."
    )
    pad: Literal["none", "before", "after"] = Field(
        default="none", description="Black to a square, before or after the first resizing."
    )
    oversize: float = Field(
        default=1.0, ge=1, le=4,
        description="First resized to size × oversize: the longest side if padded after, else the shortest.",
    )  # fmt: skip
    interpolation: Literal["bilinear", "bicubic", "lanczos", "area"] = "bicubic"
    crop: Literal["center", "none"] = Field(
        default="center",
        description="Cut the centre of `size`; none = resize to it, the second time bicubic.",
    )
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    channels: Literal[1, 3] = 3

    def fitting(self) -> dict[str, Any]:
        """Returns the steps that `data` carries out; unused steps are left out of the fingerprint."""
        taken = {"size", "crop", "interpolation"}
        taken |= {name for name in ("window", "pad", "oversize") if getattr(self, name) != _default(name)}
        return self.model_dump(include=taken)

    def identity(self) -> dict[str, Any]:
        """Returns all that changes what the encoder sees."""
        return {**self.model_dump(mode="json", include={"mean", "std", "channels"}), **self.fitting()}


def _default(name: str) -> Any:
    return PreprocessingSpec.model_fields[name].default


class PhantomConfig(Config):
    """The procedural radiographs of `data.dataset: phantom`."""

    num_train: int = Field(default=600, ge=6, le=1_000_000, description="Images.")
    num_val: int = Field(default=150, ge=6, le=1_000_000)
    num_test: int = Field(default=300, ge=6, le=1_000_000)
    images_per_patient: int = Field(
        default=2, ge=1, le=20, description="Largest number of images of one patient."
    )
    lesion_amplitude: float = Field(
        default=1.0, ge=0, le=4, description="Class effect; 0 makes the classes equal."
    )


class DataConfig(Config):
    """Which images, how they are split, augmented and described."""

    dataset: str = Field(default="phantom", description="A name in `trainables.data.datasets.DATASETS`.")
    root: Path | None = Field(default=None, description="Folder of the images; every path stays inside it.")
    manifest: str = Field(default="manifest.csv", description="CSV under `root` for the `manifest` data set.")
    seed: int = Field(default=0, ge=0, description="Draws the phantom, splits without given ones, and folds.")
    num_folds: int | None = Field(
        default=None, ge=2, le=20, description="Patient-grouped cross-validation; none = given splits."
    )
    fold: int | None = Field(default=None, ge=0, description="The fold held out as test.")
    augmentation: Literal["none", "light"] = Field(
        default="light", description="Rotation ±7°, crop .85-1, contrast, brightness."
    )
    num_views: int = Field(
        default=4, ge=0, le=64, description="Augmented views per image (0 = a new one every epoch)."
    )
    captions: CaptionKind = Field(
        default="finding",
        description="What train images are paired with: one sentence a class, one of 20 templates, one of "
        "ten findings, what infection masks show (else a finding), BLIP's words with the class appended.",
    )
    permute_labels: bool = Field(
        default=False, description="Control: labels shuffled among patients; all must score at chance."
    )
    phantom: PhantomConfig = PhantomConfig()

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if (self.fold is None) != (self.num_folds is None):
            raise ValueError("data.fold and data.num_folds are set together or not at all")
        if self.fold is not None and self.num_folds is not None and self.fold >= self.num_folds:
            raise ValueError(f"data.fold={self.fold}: must be below data.num_folds={self.num_folds}")
        return self


class EncoderConfig(Config):
    """Which dual encoder."""

    name: str = Field(
        default="lite0-minilm", description="A registered name, a Hub id, or a local CLIP folder."
    )
    image_size: int | None = Field(
        default=None, ge=16, le=1024, description="Pixels; none = the encoder's own."
    )
    revision: str | None = Field(default=None, description="Commit of the Hub repository.")
    precision: Precision = Field(
        default="float32", description="Of frozen weights and of what flows through them; auto = the faster."
    )


class AdaptConfig(Config):
    """What trains."""

    method: Literal["none", "projection", "lora", "lora+projection", "full", "baseline"] = Field(
        default="lora+projection",
        description="full = every weight of `towers`, no adapters; baseline = no dual encoder, but the "
        "classifier of the block `baseline`.",
    )
    towers: Literal["image", "text", "both"] = Field(
        default="image", description="What `full` trains; adapters have lora.towers."
    )


class BaselineConfig(Config):
    """An image classifier trained end to end, without text: what CLIP is compared with."""

    architecture: Literal["resnet18", "vit_b_16"] = "resnet18"
    from_scratch: bool = Field(
        default=False, description="Random weights to start from, not ImageNet's; the metrics' name says so."
    )
    image_size: int = Field(default=224, ge=32, le=512, description="Pixels; of vit_b_16 a multiple of 16.")
    class_weights: bool = Field(
        default=True, description="Every class weighs the same in the loss, however many images it has."
    )
    patience: int | None = Field(
        default=5, ge=1, description="Epochs without a better val macro_auroc before it stops; none = never."
    )

    @model_validator(mode="after")
    def _is_cut_into_whole_patches(self) -> Self:
        if self.architecture == "vit_b_16" and self.image_size % 16:
            raise ValueError(
                f"baseline.image_size={self.image_size}: vit_b_16 cuts images into patches of 16 pixels; use "
                f"{self.image_size // 16 * 16} or {self.image_size // 16 * 16 + 16}"
            )
        return self


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021), times alpha / rank (rsLoRA: alpha / √rank)."""

    rank: int = Field(default=8, ge=1, le=512)
    scaling: float = Field(default=2.0, gt=0, le=64, description="alpha / rank.")
    use_rslora: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str = Field(
        default="all", description="A preset of the encoder's family, or leaf names joined by commas."
    )
    towers: Literal["image", "text", "both"] = "image"
    num_blocks: int | None = Field(
        default=3, ge=1, description="Adapt only the upper blocks of each tower; none = all."
    )


class OptimConfig(Config):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="None = the default of the encoder's family."
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1, description="Share of all steps.")
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="None = off.")


class LossConfig(Config):
    """The objective: contrastive, or cross-entropy over classes as a control.

    `class_prompt` asks for the class's prompts, `cross_entropy` for a vector per class that is learned.
    """

    kind: LossKind = "multi_positive"
    positives: Literal["class", "caption"] = Field(
        default="class", description="What makes two pairs positives, or what `soft_target` compares."
    )
    pair_weight: float = Field(default=0.0, ge=0, le=1, description="w in t = w [i = j] + (1 - w) group.")
    temperature: float = Field(
        default=0.1, gt=0.005, le=10, description="τ of `soft_target`: softmax(similarity / τ)."
    )
    logit_scale: float | None = Field(
        default=None, gt=0, le=100, description="Start of the multiplier; none = the encoder's own."
    )
    learn_logit_scale: bool = True
    logit_bias: float = Field(default=-10.0, ge=-100, le=100, description="Start of the bias of `siglip`.")

    @property
    def asks_for_classes(self) -> bool:
        """Whether images are compared with the classes, not with the captions of their batch."""
        return self.kind in ("class_prompt", "cross_entropy")

    @property
    def reads(self) -> frozenset[str]:
        """Names of the settings that this kind of loss reads."""
        always = {"kind", "logit_scale", "learn_logit_scale"}
        grouped = {"positives", "pair_weight"}
        match self.kind:
            case "multi_positive":
                return frozenset(always | grouped)
            case "soft_target":
                return frozenset(always | grouped | {"temperature"})
            case "siglip":
                return frozenset(always | grouped | {"logit_bias"})
            case "clip" | "class_prompt" | "cross_entropy":
                return frozenset(always)


class ProbeConfig(Config):
    """The linear classifier on stored embeddings (CLIP, appendix A.3)."""

    l2: float | None = Field(
        default=None, gt=0, description="λ; none = chosen on val among 96 over 1e-6…1e6 by bisection."
    )
    features: tuple[Features, ...] = ("joint", "pooled")
    shots: tuple[Shots, ...] = Field(
        default=(), description="Few-shot probes too: on so many train images a class, of as many patients."
    )
    num_draws: int = Field(default=10, ge=2, le=1000, description="Of shots; scores are means over them.")
    shot_seed: int = Field(default=0, ge=0, description="Of the draws; not the training seed.")

    @field_validator("shots")
    @classmethod
    def _each_number_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"probe.shots={list(value)}: a number occurs twice; remove one of them")
        return value


class ZeroShotConfig(Config):
    """Families of zero-shot prompts; each is a system of its own, `zero_shot_<family>`."""

    prompts: tuple[PromptFamily, ...] = Field(
        default=("training", "unseen"),
        description="The class's name, 20 templates around it, the finding sentences that captions are drawn "
        "from, such sentences never trained on, and pairs of a finding with what contradicts it.",
    )


class CaptionerConfig(Config):
    """The model that describes images for `data.captions: blip_label`."""

    name: str = Field(
        default="Salesforce/blip-image-captioning-base", description="A Hub id, or a local BLIP folder."
    )
    revision: str | None = Field(default=None, description="Commit of the Hub repository; none = the tested.")
    max_new_tokens: int = Field(default=50, ge=1, le=200)


class ExecutionConfig(Config):
    """How a trial runs. Never part of its identity: it may change the time, never the result."""

    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Pairs per forward; none = the whole share if it fits."
    )
    num_workers: int = Field(default=1, ge=1, le=4096)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads a trial computes with; none = its cores."
    )
    memory_budget_gb: float | None = Field(
        default=None,
        gt=0,
        description="GiB of one worker that graphs may take; none = its share of what is free, or one graph "
        "where micro_batch_size is set.",
    )
    cache_budget_gb: float = Field(
        default=8.0, ge=0, description="Largest activation cache; above it, activations are recomputed."
    )
    evaluate_every_epochs: int = Field(
        default=1, ge=0, description="Epochs between evaluations on val; 0 = at the end only."
    )
