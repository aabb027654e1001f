"""The blocks of settings of a trial, as immutable and strict models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from trainables.config.base import Config
from trainables.config.mappings import Pairs, Uncertain

Split = Literal["train", "val", "test"]
Task = Literal["multiclass", "multilabel"]
"""multiclass: classes exclude each other; multilabel: an image may have several findings."""
Features = Literal["pooled", "joint"]
Precision = Literal["float32", "bfloat16", "auto"]
LossKind = Literal["clip", "multi_positive", "soft_target", "siglip", "class_prompt", "cross_entropy"]
CaptionKind = Literal["class_template", "template", "finding", "mask_finding", "blip_label", "report"]
ReportSections = Literal["findings", "impression", "both"]
PromptFamily = Literal["class_name", "template", "training", "unseen", "pair", "published"]
Shots = Annotated[int, Field(ge=1, le=10_000)]


class PhantomConfig(Config):
    """The synthetic radiographs of `data.dataset: phantom` and `phantom_findings`."""

    num_train: int = Field(default=600, ge=6, le=1_000_000, description="Number of images.")
    num_val: int = Field(default=150, ge=6, le=1_000_000)
    num_test: int = Field(default=300, ge=6, le=1_000_000)
    images_per_patient: int = Field(
        default=2, ge=1, le=20, description="Largest number of images of one patient."
    )
    lesion_amplitude: float = Field(
        default=1.0, ge=0, le=4, description="Strength of the class effect; 0 = all classes look the same."
    )


class AdaptOnConfig(Config):
    """Another data set, whose train images train the adapter. All scores are of the images of `data`."""

    dataset: str | None = Field(
        default=None, description="A name as in `data.dataset`; none = the adapter is trained on `data`."
    )
    root: Path | None = Field(default=None, description="Folder of its images, as `data.root`.")
    manifest: str = Field(default="manifest.csv", description="Its table, as `data.manifest`.")
    exclude: Path | None = Field(default=None, description="Its images to leave out, as `data.exclude`.")


class DataConfig(Config):
    """The images, and their splits, augmentation and captions."""

    dataset: str = Field(default="phantom", description="A name in `trainables.data.datasets.DATASETS`.")
    union: tuple[str, ...] = Field(
        default=(),
        description="Data sets that `dataset: union` joins by the names of their findings, such as "
        "[nih14, chexpert]. Each is read from the folder of its name below `root`.",
    )
    root: Path | None = Field(default=None, description="Folder of the images; paths outside it are refused.")
    manifest: str = Field(
        default="manifest.csv",
        description="Table below `root` that lists the images of `manifest`, `medmnist`'s `.npz` file, or "
        "`mimic_cxr`'s table of labels.",
    )
    exclude: Path | None = Field(
        default=None,
        description="Text file with images to leave out, one path per line relative to `root`; "
        "`data check --write-bad` writes one.",
    )
    rename: Pairs = Field(
        default=(), description="Label → class, such as {covid-19: COVID-19}, to rename or join classes."
    )
    task: Literal["auto", "multiclass", "multilabel"] = Field(
        default="auto",
        description="multiclass: one class per image; multilabel: several findings; auto: by the data set. "
        "`manifest` is multilabel if a label joins findings by `|`, or each finding has a column.",
    )
    uncertain: Uncertain = Field(
        default="ignore",
        description="Uncertain labels (-1) of train images. ignore: not trained on; ones: read as 1; zeros: "
        "read as 0; or a mapping such as {Edema: ones}. In val and test they are never scored.",
    )
    blank: Literal["ignore", "zeros"] = Field(
        default="ignore",
        description="Blank labels. ignore: not known, except beside `No Finding`; zeros: read as 0.",
    )
    frontal_only: bool = Field(
        default=True, description="Leave out images whose view is known and not frontal."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the phantom, of folds, and of splits that are not given."
    )
    num_folds: int | None = Field(
        default=None,
        ge=2,
        le=20,
        description="Folds of cross-validation by patient; none = the given splits.",
    )
    fold: int | None = Field(default=None, ge=0, description="The fold that is used as test.")
    augmentation: Literal["none", "light"] = Field(
        default="light", description="Rotation ±7°, crop .85-1, contrast, brightness."
    )
    num_views: int = Field(
        default=4, ge=0, le=64, description="Augmented views per image; 0 = a new view in each epoch."
    )
    captions: CaptionKind = Field(
        default="finding",
        description="Captions of train images. class_template: one sentence per class; template: one of 20 "
        "templates; finding: one of ten findings; mask_finding: what the infection mask shows, or a finding; "
        "blip_label: BLIP's caption and the class; report: sentences of the report, else a finding.",
    )
    report_sections: ReportSections = Field(
        default="both",
        description="Sections of a report that captions read; if they say nothing, the other one, then text "
        "without a heading.",
    )
    report_sentences: int | None = Field(
        default=3,
        ge=1,
        le=100,
        description="Largest number of sentences in a caption from a report; each epoch draws anew. None = "
        "all sentences.",
    )
    drop_comparisons: bool = Field(
        default=True, description="Leave out sentences of reports that compare with an earlier study."
    )
    prompts: Path | None = Field(
        default=None,
        description="YAML file with the words of each class, for captions and prompts; none = the shipped "
        "words of the data set, or words made from the labels.",
    )
    permute_labels: bool = Field(
        default=False,
        description="Control: shuffle labels among patients; all systems must then score at chance.",
    )
    phantom: PhantomConfig = PhantomConfig()
    adapt_on: AdaptOnConfig = AdaptOnConfig()

    @property
    def name(self) -> str:
        """The name of the data set, or the names of those that are joined, such as `nih14+chexpert`."""
        return "+".join(self.sets)

    @property
    def sets(self) -> tuple[str, ...]:
        """The data sets that are read: one, or those of a union."""
        return self.union or (self.dataset,)

    @model_validator(mode="after")
    def _union_has_its_sets(self) -> Self:
        if self.dataset == "union" and len(self.union) < 2:
            raise ValueError(
                "data.dataset=union joins at least two data sets: --set 'data.union=[nih14, chexpert]'"
            )
        if self.union and self.dataset != "union":
            raise ValueError(
                f"data.union is read with --set data.dataset=union, but data.dataset is {self.dataset}"
            )
        return self

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if (self.fold is None) != (self.num_folds is None):
            raise ValueError("data.fold and data.num_folds must be set together, or not at all")
        if self.fold is not None and self.num_folds is not None and self.fold >= self.num_folds:
            raise ValueError(f"data.fold={self.fold}: must be below data.num_folds={self.num_folds}")
        return self

    @property
    def trained_on(self) -> DataConfig:
        """The settings of the data set whose train images train: these, or those of `adapt_on`.

        Labels, words and folds of `data` are not those of another data set. Augmentation and captions are.
        """
        other = self.adapt_on
        if other.dataset is None:
            return self
        named = {name: getattr(other, name) for name in AdaptOnConfig.model_fields}
        reset = ("union", "rename", "task", "uncertain", "blank", "prompts", "num_folds", "fold", "adapt_on")
        return self.model_copy(update=named | {name: DataConfig.model_fields[name].default for name in reset})


class EncoderConfig(Config):
    """The dual encoder."""

    name: str = Field(
        default="lite0-minilm", description="A registered name, a Hub id, or a local CLIP folder."
    )
    image_size: int | None = Field(
        default=None, ge=16, le=1024, description="Height and width in pixels; none = the encoder's default."
    )
    revision: str | None = Field(default=None, description="Commit of the Hub repository.")
    precision: Precision = Field(
        default="float32",
        description="Precision of frozen weights and their activations; auto = the faster one.",
    )


class AdaptConfig(Config):
    """The method of adaptation, and the weights that are trained."""

    method: Literal["none", "projection", "lora", "lora+projection", "full", "baseline"] = Field(
        default="lora+projection",
        description="full = train every weight of `towers`, without adapters; baseline = train the "
        "classifier of the block `baseline` instead of a dual encoder.",
    )
    towers: Literal["image", "text", "both"] = Field(
        default="image", description="Towers that `full` trains; for adapters, set lora.towers."
    )


class BaselineConfig(Config):
    """An image classifier that is trained end to end without text, for comparison with CLIP."""

    architecture: Literal["resnet18", "vit_b_16"] = "resnet18"
    from_scratch: bool = Field(
        default=False,
        description="Start from random weights, not from ImageNet's; metrics then have another name.",
    )
    image_size: int = Field(default=224, ge=32, le=512, description="Pixels; a multiple of 16 for vit_b_16.")
    class_weights: bool = Field(
        default=True,
        description="Give each class the same weight in the loss, whatever its number of images.",
    )
    patience: int | None = Field(
        default=5,
        ge=1,
        description="Stop after this many epochs without a better val macro_auroc; none = never.",
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
    """Low-rank adapters (Hu et al. 2021), scaled by alpha / rank (rsLoRA: alpha / √rank)."""

    rank: int = Field(default=8, ge=1, le=512)
    scaling: float = Field(default=2.0, gt=0, le=64, description="alpha / rank.")
    use_rslora: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str = Field(
        default="all",
        description="A preset of the encoder's family, or names of modules, separated by commas.",
    )
    towers: Literal["image", "text", "both"] = "image"
    num_blocks: int | None = Field(
        default=3, ge=1, description="Number of upper blocks of each tower that are adapted; none = all."
    )


class OptimConfig(Config):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="None = the default of the encoder's family."
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1, description="Fraction of all steps.")
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="None = off.")


class LossConfig(Config):
    """The training loss: a contrastive loss, or cross-entropy over classes as a control.

    `class_prompt` compares images with the prompts of each class, `cross_entropy` with a learned vector. With
    several findings per image, both use a sigmoid for each finding.
    """

    kind: LossKind = "multi_positive"
    positives: Literal["class", "caption"] = Field(
        default="class",
        description="Pairs of one class, of equal findings, or of one caption are positives; `soft_target` "
        "compares these.",
    )
    pair_weight: float = Field(default=0.0, ge=0, le=1, description="w in t = w [i = j] + (1 - w) group.")
    temperature: float = Field(
        default=0.1, gt=0.005, le=10, description="τ of `soft_target`: softmax(similarity / τ)."
    )
    logit_scale: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="Initial multiplier of similarities; none = the encoder's value.",
    )
    learn_logit_scale: bool = True
    logit_bias: float = Field(default=-10.0, ge=-100, le=100, description="Initial bias of `siglip`.")

    @property
    def asks_for_classes(self) -> bool:
        """True if the loss compares images with classes, not with the captions of the batch."""
        return self.kind in ("class_prompt", "cross_entropy")

    @property
    def reads(self) -> frozenset[str]:
        """The names of the settings that this kind of loss reads."""
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
        default=None, gt=0, description="λ; none = choose it on val, by bisection over 1e-6…1e6."
    )
    per_finding: bool = Field(
        default=False,
        description="Several findings per image: choose one λ for each finding, not one for all.",
    )
    features: tuple[Features, ...] = ("joint", "pooled")
    shots: tuple[Shots, ...] = Field(
        default=(), description="Few-shot probes: numbers of train images per class, each of another patient."
    )
    num_draws: int = Field(
        default=10, ge=2, le=1000, description="Draws of shots; scores are means over draws."
    )
    shot_seed: int = Field(default=0, ge=0, description="Seed of the draws; not the training seed.")

    @field_validator("shots")
    @classmethod
    def _each_number_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"probe.shots={list(value)}: a number occurs twice; remove one of them")
        return value


class ZeroShotConfig(Config):
    """Families of zero-shot prompts. Each family is a separate system, `zero_shot_<family>`."""

    prompts: tuple[PromptFamily, ...] = Field(
        default=("training", "unseen"),
        description="class_name: the name of the class; template: 20 templates with this name; training: the "
        "finding sentences of captions; unseen: finding sentences never used in training; pair: a finding "
        "and its contrary; published: the prompts of a paper.",
    )
    published_by: str | None = Field(
        default=None,
        description="Source of the prompts of family `published`, such as CheXzero; none = the only source "
        "with prompts for every class.",
    )


class CaptionerConfig(Config):
    """The model that describes images for `data.captions: blip_label`."""

    name: str = Field(
        default="Salesforce/blip-image-captioning-base", description="A Hub id, or a local BLIP folder."
    )
    revision: str | None = Field(
        default=None, description="Commit of the Hub repository; none = the tested one."
    )
    max_new_tokens: int = Field(default=50, ge=1, le=200)


class ExecutionConfig(Config):
    """How a trial runs. These settings can change its time but not its result, so they do not identify it."""

    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Pairs per forward pass; none = all pairs of a worker, if they fit."
    )
    num_workers: int = Field(default=1, ge=1, le=4096)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of a trial; none = the number of its cores."
    )
    memory_budget_gb: float | None = Field(
        default=None,
        gt=0,
        description="GiB for the graphs of one worker; none = a fair part of the free memory, or one "
        "graph if micro_batch_size is set.",
    )
    cache_budget_gb: float = Field(
        default=8.0,
        ge=0,
        description="Largest activation cache in GB; above this size, activations are recomputed.",
    )
    evaluate_every_epochs: int = Field(
        default=1, ge=0, description="Epochs between evaluations on val; 0 = at the end only."
    )
