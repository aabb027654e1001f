"""Prepares the shared inputs of all trials: image caches, uploads, captions and frozen embeddings."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.placement import Need
from orchestrator.driver.controller import Controller
from orchestrator.driver.signals import Stopped, StopRequest
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

# Imports inside functions: Ray Data is loaded only if a sweep uses several nodes.

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


def begin_prefetch(
    space: SearchSpace, controller: Controller, stop: StopRequest, *, cluster: Cluster | None, need: Need
) -> Callable[[], dict[str, str]]:
    """Starts `prefetch` in the background; returns a function that waits for the result and returns it.

    On several nodes that share the store, the work starts only when that function is called, after Ray was
    joined. The work may take hours, so it ends early if the user stops the sweep. With a storage, each node
    decodes its own images.
    """
    if cluster is None or not cluster.is_spread or controller.settings.mirror is not None:
        return in_background(lambda: prefetch(space, controller)).result

    def over_nodes() -> dict[str, str]:
        from orchestrator.driver.pipelines import Pipelines

        pipelines = Pipelines(need, controller.say, lambda: stop.is_asked_to_stop)
        with suppress(Stopped):
            prefetch(space, controller, pipelines.decode)
            describe_and_embed(space, pipelines)
        return {}

    return over_nodes


def prefetch(
    space: SearchSpace, controller: Controller, decode_all: DecodeAll = decode_here
) -> dict[str, str]:
    """Fills the image caches of all trials and imports Tune, while Ray's processes start.

    Returns:
        Inputs uploaded to the storage, for nodes without the data or the weights: place → fingerprint.
    """
    for config in filter(may_be_here, distinct_inputs(space)):
        open_image_cache(load_dataset(config.data), model_preprocessing(config), store(), decode_all)
    mirror = controller.settings.mirror
    offered = upload_inputs(mirror.storage, distinct_inputs(space)) if mirror is not None else {}
    importlib.import_module("orchestrator.driver.tune_adapter")
    return offered


def describe_and_embed(space: SearchSpace, pipelines: Pipelines) -> None:
    """Computes BLIP's captions and the embeddings of frozen encoders on all nodes, once for all trials.

    Otherwise one trial would compute them while the others wait. Models whose weights are not on this machine
    are skipped, because many workers would download the weights at once. If a computation fails, a trial
    repeats it and reports the error.

    Raises:
        Stopped: the user ended the sweep.
    """
    kinds = distinct(
        space.trials_to_check(),
        lambda it: [it.data, it.model_to_load, it.captioner, it.needs_captioner, it.adapt.method == "none"],
    )
    here = [it for it in kinds if not (it.is_baseline or missing_weights([it]))]
    captioned = distinct((it for it in here if it.needs_captioner), lambda it: [it.data, it.captioner])
    frozen = distinct((it for it in here if it.adapt.method == "none"), lambda it: [it.data, it.encoder])
    wanted = [("captions", pipelines.caption, config) for config in captioned]
    wanted += [("embeddings", pipelines.embed, config) for config in frozen]
    for what, make, config in wanted:
        if pipelines.is_stopping():
            raise Stopped
        try:
            make(config, store())
        except Stopped:
            raise
        except Exception as error:
            logger.warning("%s were not computed on the nodes", what, exc_info=error)
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}, see ray.log"
            pipelines.say(f"{what} of {config.data.dataset} will be computed by the trials: {reason}")


def distinct_inputs(space: SearchSpace) -> list[TrialConfig]:
    """Returns one trial for each combination of data set, model and captioner in the space."""
    return distinct(space.trials_to_check(), lambda config: [config.data, weights_of(config)])


def distinct(configs: Iterable[TrialConfig], of: Callable[[TrialConfig], list[Any]]) -> list[TrialConfig]:
    """Returns the first trial of each kind. Trials are of one kind if `of` returns equal values."""
    found: dict[str, TrialConfig] = {}
    for config in configs:
        found.setdefault(fingerprint(of(config)), config)
    return list(found.values())


def in_background(work: Callable[[], ResultT]) -> Future[ResultT]:
    """Starts work on a daemon thread, so that an interrupted process can end."""
    future: Future[ResultT] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
