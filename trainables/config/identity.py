"""The identity of a trial: the settings that can change its result, and the inputs that it reads.

Every field of a trial is in `READ_WHEN`, so a new field must say whether it identifies a trial. A test
compares this table with the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainables.artifacts import fingerprint
from trainables.config.flat import nest, to_flat
from trainables.config.trial import TrialConfig

Condition = Callable[[TrialConfig], bool]


def never(config: TrialConfig) -> bool:
    """Returns False: for paths, whose content has a separate fingerprint, and for execution."""
    del config
    return False


def always(config: TrialConfig) -> bool:
    """Returns True: for fields that every trial reads."""
    del config
    return True


def trains(config: TrialConfig) -> bool:
    """Returns whether a trial reads the fields of the optimiser and of the order of images."""
    return config.adapt.method != "none"


def has_encoder(config: TrialConfig) -> bool:
    """Returns whether a trial reads the fields of a dual encoder, its probes and its prompts."""
    return not config.is_baseline


def trains_encoder(config: TrialConfig) -> bool:
    """Returns whether a trial reads the fields of the contrastive loss."""
    return trains(config) and has_encoder(config)


def has_adapters(config: TrialConfig) -> bool:
    """Returns whether a trial reads the fields of LoRA."""
    return "lora" in config.adapt.method


def reads_published(config: TrialConfig) -> bool:
    """Returns whether a trial reads the source of published prompts."""
    return has_encoder(config) and "published" in config.zero_shot.prompts


def draws_shots(config: TrialConfig) -> bool:
    """Returns whether a trial reads the fields of few-shot probes."""
    return has_encoder(config) and bool(config.probe.shots)


def _loss_reads(name: str) -> Condition:
    return lambda config: trains_encoder(config) and name in config.loss.reads


def _in(block: str, names: str) -> tuple[str, ...]:
    return tuple(f"{block}.{name}" for name in names.split())


DATA_READ = _in("data", "root manifest exclude rename frontal_only uncertain blank")
"""Settings of the images and labels that are read. The fingerprint of the data covers what they change."""

_ROWS: tuple[tuple[Condition, tuple[str, ...]], ...] = (
    (never, (*DATA_READ, "data.prompts")),  # the fingerprint of the words covers the prompts
    (lambda config: config.data.task != "auto", ("data.task",)),
    (lambda config: bool(config.data.union), ("data.union",)),
    (never, _in("data.adapt_on", "root manifest exclude")),
    (never, _in("execution", "micro_batch_size num_workers device num_threads memory_budget_gb")),
    (never, _in("execution", "cache_budget_gb evaluate_every_epochs")),
    (always, _in("data", "dataset seed num_folds fold permute_labels")),
    (always, _in("data.phantom", "num_train num_val num_test images_per_patient lesion_amplitude")),
    (always, ("adapt.method",)),
    (trains, _in("data", "augmentation num_views")),
    (trains, _in("optim", "learning_rate weight_decay warmup_fraction max_grad_norm")),
    (trains, ("global_batch_size", "num_epochs", "seed")),
    (has_encoder, _in("encoder", "name image_size revision precision")),
    (has_encoder, (*_in("probe", "l2 features shots"), "zero_shot.prompts")),
    (lambda config: has_encoder(config) and config.probe.per_finding, ("probe.per_finding",)),
    (reads_published, ("zero_shot.published_by",)),
    (draws_shots, _in("probe", "num_draws shot_seed")),
    (has_adapters, _in("lora", "rank scaling use_rslora dropout target_modules towers num_blocks")),
    (lambda config: config.adapt.method == "full", ("adapt.towers",)),
    (lambda config: config.is_baseline, _in("baseline", "architecture from_scratch image_size")),
    (lambda config: config.is_baseline, _in("baseline", "class_weights patience")),
    (lambda config: config.reads_captions, ("data.captions",)),
    (lambda config: config.adapts_elsewhere, ("data.adapt_on.dataset",)),
    (lambda config: config.reads_reports, _in("data", "report_sections report_sentences drop_comparisons")),
    (lambda config: config.needs_captioner, _in("captioner", "name revision max_new_tokens")),
    *((_loss_reads(name), (f"loss.{name}",)) for name in ("kind", "positives", "pair_weight", "temperature")),
    *((_loss_reads(name), (f"loss.{name}",)) for name in ("logit_scale", "learn_logit_scale", "logit_bias")),
)
READ_WHEN: dict[str, Condition] = {name: condition for condition, names in _ROWS for name in names}
"""Dotted name of a field → a function that returns whether the field can change a trial's result."""


def science(config: TrialConfig) -> dict[str, Any]:
    """Returns the settings that can change a trial's result, as nested mappings."""
    return nest({name: value for name, value in to_flat(config).items() if READ_WHEN[name](config)})


def trial_key(
    config: TrialConfig,
    data_fingerprint: str,
    encoder_fingerprint: str,
    captioner_fingerprint: str | None = None,
    words_fingerprint: str | None = None,
) -> str:
    """Returns the key of a trial, which depends on its `science` and its inputs, not on how it runs."""
    texts = _texts(config, captioner_fingerprint, words_fingerprint)
    return fingerprint("trial", science(config), data_fingerprint, encoder_fingerprint, *texts)


def arm_key(
    config: TrialConfig,
    dataset_fingerprint: str,
    encoder_fingerprint: str,
    captioner_fingerprint: str | None = None,
    words_fingerprint: str | None = None,
) -> str:
    """Returns the key of a trial's arm. It is like `trial_key`, but without `seed` and `data.fold`."""
    settings = science(config)
    settings.pop("seed", None)
    settings["data"]["fold"] = None
    texts = _texts(config, captioner_fingerprint, words_fingerprint)
    return fingerprint("arm", settings, dataset_fingerprint, encoder_fingerprint, *texts)


def _texts(config: TrialConfig, captioner: str | None, words: str | None) -> list[str | None]:
    """Returns the parts of a key for the captioner and the words, as far as the trial reads them."""
    return [*([captioner] if config.needs_captioner else []), *([words] if words is not None else [])]
