"""What is done once for all trials: images, data and weights in place; over nodes captions and embeddings."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.nodes import Cluster
from orchestrator.driver.controller import Controller
from orchestrator.driver.signals import Stopped
from orchestrator.planning.checks import may_be_here, missing_weights
from orchestrator.planning.identity import weights_of
from orchestrator.search.space import SearchSpace
from orchestrator.storage.input_staging import upload_inputs
from orchestrator.storage.paths import store
from trainables.artifacts import fingerprint
from trainables.config import TrialConfig
from trainables.data.cache import DecodeAll, decode_here, open_image_cache
from trainables.data.datasets import load_dataset
from trainables.errors import UserError
from trainables.models.catalogue.registry import model_preprocessing

if TYPE_CHECKING:
    from orchestrator.driver.pipelines import Pipelines

# Imports inside functions: Ray Data loads only where a sweep spreads over nodes.

logger = logging.getLogger(__name__)


def preparation(
    space: SearchSpace, cluster: Cluster | None, controller: Controller, is_stopping: Callable[[], bool]
) -> Callable[[], None]:
    """Begins `prepare`, and returns what waits for it; over several nodes it begins once Ray is joined.

    With a storage, nodes need not see what this one does: each decodes for itself. Over nodes, which may take
    hours, it ends early where the sweep is to end.
    """
    if cluster is None or not cluster.is_spread or controller.mirror is not None:
        return in_background(lambda: prepare(space, controller)).result

    def over_nodes() -> None:
        from orchestrator.driver.pipelines import Pipelines

        pipelines = Pipelines(controller.order.need, controller.say, is_stopping)
        with suppress(Stopped):
            prepare(space, controller, pipelines.decode)
            describe_and_embed(space, controller, pipelines)

    return over_nodes


def prepare(space: SearchSpace, controller: Controller, decode_all: DecodeAll = decode_here) -> None:
    """Fills the image caches that all trials read, and imports Tune, while Ray's processes start.

    With a storage, data and local weights are put there, for nodes that lack them.

    Args:
        space: whose data sets and encoders.
        controller: has the storage, and what its orders say of it.
        decode_all: who decodes.

    Raises:
        DataError: an image cannot be decoded.
        StorageError: the storage does not take them.
    """
    for config in filter(may_be_here, distinct_inputs(space)):
        open_image_cache(load_dataset(config.data), model_preprocessing(config), store(), decode_all)
    if controller.mirror is not None:
        found = upload_inputs(controller.mirror.storage, distinct_inputs(space))
        controller.order = replace(controller.order, inputs=found)
    importlib.import_module("orchestrator.driver.tune_adapter")


def describe_and_embed(space: SearchSpace, controller: Controller, pipelines: Pipelines) -> None:
    """Makes over all nodes what one trial would make on its own while others wait for it, or make it again.

    These are BLIP's words on the images, and the embeddings of frozen encoders, which differ neither by seed
    nor by fold; of those whose weights are here, as many workers would fetch others at once. Nothing stands
    on it: what fails here, a trial makes, or says why it cannot.

    Args:
        space: whose trials.
        controller: tells whoever watches what was not made.
        pipelines: make it.

    Raises:
        Stopped: the sweep is to end.
    """
    kinds = distinct(
        space.trials_to_check(),
        lambda it: [it.data, it.model_to_load, it.captioner, it.needs_captioner, it.adapt.method == "none"],
    )
    here = [it for it in kinds if not (it.is_baseline or missing_weights([it]))]
    captioned = [it for it in here if it.needs_captioner]
    frozen = [it for it in here if it.adapt.method == "none"]
    wanted: list[tuple[str, Callable[[TrialConfig, Path], None], TrialConfig]] = [
        *(
            ("captions", pipelines.caption, it)
            for it in distinct(captioned, lambda it: [it.data, it.captioner])
        ),
        *(("embeddings", pipelines.embed, it) for it in distinct(frozen, lambda it: [it.data, it.encoder])),
    ]
    for what, make, config in wanted:
        if pipelines.is_stopping():
            raise Stopped
        try:
            make(config, store())
        except Stopped:
            raise
        except Exception as error:
            logger.warning("%s were not made over the nodes", what, exc_info=error)
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}, see ray.log"
            controller.say(f"{what} of {config.data.dataset} are left to the trials: {reason}")


def distinct_inputs(space: SearchSpace) -> list[TrialConfig]:
    """Returns one trial for each data set, with model and captioner, that the space is known to need."""
    return distinct(space.trials_to_check(), lambda config: [config.data, weights_of(config)])


def distinct(configs: Iterable[TrialConfig], of: Callable[[TrialConfig], list[Any]]) -> list[TrialConfig]:
    """Returns the first trial of each kind, which `of` tells by parts of its configuration."""
    found: dict[str, TrialConfig] = {}
    for config in configs:
        found.setdefault(fingerprint(of(config)), config)
    return list(found.values())


def in_background(work: Callable[[], None]) -> Future[None]:
    """Starts work on a thread that does not keep an interrupted process alive."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
