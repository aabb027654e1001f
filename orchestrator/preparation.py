"""What is done once for all trials, while Ray's processes start: images, data and weights in place."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from orchestrator.checks import may_be_here
from orchestrator.cluster import Cluster
from orchestrator.conductor import Conductor
from orchestrator.home import store
from orchestrator.inputs import offer
from orchestrator.space import SearchSpace
from trainables.artifacts import fingerprint
from trainables.config import TrialConfig
from trainables.data.cache import DecodeAll, decode_here, open_image_cache
from trainables.data.datasets import load_dataset
from trainables.models.registry import model_preprocessing


def preparation(space: SearchSpace, cluster: Cluster | None, conductor: Conductor) -> Callable[[], None]:
    """Begins `prepare`, and returns what waits for it; over several nodes it begins once Ray is joined.

    With a storage, nodes need not see what this one does: each decodes for itself.
    """
    if cluster is None or not cluster.is_spread or conductor.mirror is not None:
        return in_background(lambda: prepare(space, conductor)).result

    def over_nodes() -> None:
        from orchestrator.pipelines import decode_over_nodes

        prepare(space, conductor, decode_over_nodes)

    return over_nodes


def prepare(space: SearchSpace, conductor: Conductor, decode_all: DecodeAll = decode_here) -> None:
    """Fills the image caches that all trials read, and imports Tune, while Ray's processes start.

    With a storage, data and local weights are put there, for nodes that lack them.

    Args:
        space: whose data sets and encoders.
        conductor: has the storage, and what its orders say of it.
        decode_all: who decodes.

    Raises:
        DataError: an image cannot be decoded.
        StorageError: the storage does not take them.
    """
    for config in filter(may_be_here, distinct_inputs(space)):
        open_image_cache(load_dataset(config.data), model_preprocessing(config), store(), decode_all)
    if conductor.mirror is not None:
        found = offer(conductor.mirror.storage, distinct_inputs(space))
        conductor.order = replace(conductor.order, inputs=found)
    importlib.import_module("orchestrator.tuning")


def distinct_inputs(space: SearchSpace) -> list[TrialConfig]:
    """Returns one trial for each pair of data set and model that the space is known to need."""
    found: dict[str, TrialConfig] = {}
    for config in space.trials_to_check():
        found.setdefault(fingerprint(config.data, config.model_to_load), config)
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
