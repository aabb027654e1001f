"""Checks trials before they start. No check loads weights; only `decode_files` decodes images."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator.search.space import SearchSpace
from orchestrator.storage.paths import store
from trainables.artifacts import fingerprint
from trainables.config import (
    AdaptConfig,
    BaselineConfig,
    EncoderConfig,
    LoraConfig,
    LossConfig,
    LossKind,
    TrialConfig,
)
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.catalogue.availability import availability, availability_of
from trainables.models.catalogue.captioners import may_be_fetched, missing_captioner
from trainables.models.catalogue.classifiers import missing_classifier, weights_file
from trainables.models.catalogue.registry import ENCODERS, find_encoder, model_preprocessing, revision_of
from trainables.models.files.weights import how_to_get
from trainables.shell import command

if TYPE_CHECKING:
    from orchestrator.cluster.nodes import Cluster
    from trainables.data.cache import DecodeAll
    from trainables.data.records import Dataset

# Imports inside functions: each check loads only the modules that it needs.

COPY = "copy the files to this node, or delete the folder on this node so that it is fetched"
"""Advice for data or weights in a folder. A node without the folder fetches the folder from the storage."""


def check_trial(config: TrialConfig) -> None:
    """Checks that a trial fits the structure of its encoder."""
    if config.is_baseline:
        return
    parts: Any = config.encoder, config.adapt, config.lora, config.loss.kind
    _check_adaptation(*parts)  # Any: pyright does not know that frozen models can be hashed


@cache
def _check_adaptation(encoder: EncoderConfig, adapt: AdaptConfig, lora: LoraConfig, loss: LossKind) -> None:
    from trainables.models.adapters.check_targets import check_targets

    spec = find_encoder(encoder)
    if not spec.has_text:
        raise ConfigError(
            f"encoder.name: {encoder.name} has no text tower, and every trial needs one; "
            f"'{command('models list')}' shows which encoders have one"
        )
    check_targets(TrialConfig(encoder=encoder, adapt=adapt, lora=lora, loss=LossConfig(kind=loss)))


def check_ready(config: TrialConfig) -> None:
    """Checks a trial before it starts. Also checks that its weights are on this machine or can be fetched.

    Raises:
        ConfigError: the trial does not fit its encoder.
        WeightsUnavailable: the weights cannot be fetched. The message says how to get the weights.
    """
    check_trial(config)
    if config.is_baseline:
        if not config.baseline.from_scratch:
            weights_file(config.baseline)
        return
    cannot_fetch = config.needs_captioner and (_is_offline() or not may_be_fetched(config.captioner))
    if cannot_fetch and (missing := missing_captioner(config.captioner)):
        raise WeightsUnavailable(missing)
    name, spec = config.encoder.name, find_encoder(config.encoder)
    revision_of(config.encoder, spec)
    is_registered = name in ENCODERS and config.encoder.revision in (None, spec.revision)
    if not is_registered or not (spec.parts or _is_offline()):
        return
    if (here := availability(name, spec)).status == "unavailable":
        raise WeightsUnavailable(f"{name}: {here.reason}; {'; '.join(here.steps)}")


def missing_weights(configs: Iterable[TrialConfig]) -> list[str]:
    """Returns one line for each model whose weights are not on this machine, even if they can be fetched."""
    asked = dict.fromkeys((c.model_to_load, c.captioner if c.needs_captioner else None) for c in configs)
    found: list[str | None] = []
    for model, captioner in asked:
        found.append(
            missing_classifier(model) if isinstance(model, BaselineConfig) else _missing_encoder(model)
        )
        found.append(missing_captioner(captioner) if captioner else None)
    return [line for line in dict.fromkeys(found) if line]


def how_to_mend(config: TrialConfig, name: str, *, is_here: bool) -> str:
    """Returns how to get the weights of `name`, the model or captioner of a trial.

    Weights in a folder travel with a trial. Converted parts and fetched revisions do not.
    `is_here` says that other weights of `name` are on this machine.
    """
    if config.needs_captioner and name == config.captioner.name:
        return missing_captioner(config.captioner) or COPY
    spec = None if config.is_baseline else find_encoder(config.encoder)
    if spec is None or (spec.is_pinned and not spec.parts):
        return COPY
    return "; ".join(how_to_get(name, spec, anew=is_here))


def _missing_encoder(config: EncoderConfig) -> str | None:
    if (here := availability_of(config)).status != "unavailable":
        return None
    show = f"'{command(f'models show {config.name}')}' says how to get it"
    return "; ".join([f"{config.name}: {here.reason}", *(here.steps if len(here.steps) < 2 else [show])])


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def check_trials(configs: list[TrialConfig]) -> dict[str, Dataset]:
    """Checks all trials, and returns their data sets by the JSON of their `data` settings."""
    from trainables.data.adapt_on import check_trained_on
    from trainables.data.datasets import load_dataset, training_set
    from trainables.data.text import prompts_of
    from trainables.scoring.task_systems import SYSTEMS

    for config in configs:
        check_trial(config)
    datasets: dict[str, Dataset] = {}
    asked: set[str] = set()
    for config in configs:
        key = config.data.model_dump_json()
        if key not in datasets:
            datasets[key] = load_dataset(config.data)
        if config.adapts_elsewhere:
            check_trained_on(training_set(config.data_to_read), config)
        dataset = datasets[key]
        question = fingerprint(dataset.fingerprint, dataset.words.fingerprint, config.zero_shot, config.probe)
        if config.is_baseline or question in asked:
            continue
        asked.add(question)
        for family in ("training", *config.zero_shot.prompts):
            prompts_of(dataset, family, published_by=config.zero_shot.published_by)
        if config.probe.shots:
            SYSTEMS[dataset.task].check_shots(dataset, config.probe)
    return datasets


def may_be_here(config: TrialConfig) -> bool:
    """Says whether the weights of a trial are on this machine or can be fetched."""
    try:
        check_ready(config)
    except WeightsUnavailable:
        return False
    return True


def decode_files(space: SearchSpace, decode_all: DecodeAll, cluster: Cluster | None = None) -> None:
    """Decodes all image files into the cache. This finds broken files before the sweep starts.

    Does nothing if the trials run on several nodes of a cluster, because then the nodes decode.

    Raises:
        DataError: some images cannot be decoded. The message lists these images and their rows.
    """
    from trainables.data.cache import open_image_cache
    from trainables.data.datasets import load_dataset

    if cluster is not None and cluster.is_spread:
        return
    seen: set[tuple[str, str]] = set()
    for config in filter(may_be_here, space.trials_to_check()):
        dataset, preprocessing = load_dataset(config.data), model_preprocessing(config)
        key = dataset.content_fingerprint, preprocessing.model_dump_json()
        if key not in seen and dataset.records[0].path is not None:
            seen.add(key)
            open_image_cache(dataset, preprocessing, store(), decode_all)
