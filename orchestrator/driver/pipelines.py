"""Decodes, captions and embeds images on all nodes of a cluster, with Ray Data.

Used only for several nodes. On one machine a plain loop is faster: 5.4-6.3 s for 1,000 images, against
6.5-11.9 s with Ray Data, plus 9.4 s to start Ray Data. Both give bit-identical results.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.annotations import RayDeprecationWarning

from orchestrator.cluster.cluster_state import rooms
from orchestrator.cluster.placement import Need
from orchestrator.driver.signals import Stopped
from trainables.config import PreprocessingSpec, TrialConfig
from trainables.context import LocalContext, RunContext
from trainables.data.cache import Decoded, decode_here, decode_some, open_image_cache
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset
from trainables.errors import ClusterError
from trainables.models.catalogue.captioners import captioner_preprocessing
from trainables.models.catalogue.registry import encoder_fingerprint, model_preprocessing
from trainables.scoring.embedding_store import EmbeddingTable, embeddings_folder, store_embeddings

# Imports inside functions: Ray Data and torch are loaded only if a sweep uses several nodes.

Columns = Mapping[str, np.ndarray]
"""Columns by name, all with the same number of rows."""
Work = Callable[[np.ndarray], Columns]
"""Function from positions, int64 [N], to columns of N rows."""

DECODED_AT_ONCE = 128
EMBEDDED_AT_ONCE = 256
"""Equals `setup.ROWS_AT_ONCE`, because matrix products round differently with other batch sizes."""
ONE_CORE = Need(1, 1, 0)
ROOM_SECONDS = 5.0
"""Longest time for which finished work may still hold its resources."""
MAX_RESTARTS = 2
"""Restarts of a worker whose node is lost. By default Ray Data restarts a worker for ever."""


def over_nodes(
    open_work: Callable[[], Work],
    num_rows: int,
    *,
    at_once: int,
    need: Need = ONE_CORE,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Columns]:
    """Yields the columns that workers compute for the positions 0…num_rows-1, in order of position.

    Each worker calls `open_work` once, and then the returned function for `at_once` positions at a time.

    Raises:
        Stopped: `is_stopping` returned True after a piece.
        ClusterError: no node has room for a worker now; Ray Data would wait without a message.
    """
    import ray.data

    if not has_room(need):
        raise ClusterError("other jobs use the resources of every node")
    starts = range(0, num_rows, at_once)
    num_workers = sum(need.places(node["Resources"]) for node in ray.nodes() if node["Alive"])
    pieces = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    with warnings.catch_warnings():  # TODO: pass restarts like cores, when Ray allows it (2.64 does not)
        warnings.simplefilter("ignore", RayDeprecationWarning)
        made = pieces.map_batches(
            _Worker,
            fn_constructor_args=[open_work, num_rows, at_once],
            batch_size=1,
            num_cpus=need.cpus,
            num_gpus=need.gpus or None,
            concurrency=max(1, min(num_workers, len(starts))),
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
        )
    made.context.execution_options.preserve_order = True
    made.context.enable_progress_bars = False
    blocks: Iterable[Any] = made.iter_batches(batch_size=None, batch_format="numpy")
    for block in blocks:
        if is_stopping():
            raise Stopped
        yield block


def has_room(need: Need) -> bool:
    """Says whether some node has room for a worker now."""
    import grpc

    address, until = ray.get_runtime_context().gcs_address, time.monotonic() + ROOM_SECONDS
    try:
        while not any(need.places(room.free) for room in rooms(address) if not room.is_leaving):
            if time.monotonic() > until:
                return False
            time.sleep(ROOM_SECONDS / 10)
    except grpc.RpcError:  # the head node is busy: try anyway
        return True
    return True


class _Worker:
    """Worker process, which computes the columns of one piece at a time."""

    def __init__(self, open_work: Callable[[], Work], num_rows: int, at_once: int) -> None:
        self._work, self._num_rows, self._at_once = open_work(), num_rows, at_once

    def __call__(self, piece: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = int(piece["start"][0])
        return dict(self._work(np.arange(start, min(start + self._at_once, self._num_rows))))


@dataclass(frozen=True)
class Pipelines:
    """Computes the shared inputs of all trials once, on nodes that share the store and the image files.

    Attributes:
        need: resources of a trial's worker. Workers that run a model use the same resources, for which memory
            was planned, and the same number of threads, because rounding depends on this number.
        say: shows a line to the user.
        is_stopping: says whether the user ends the sweep. Every method then raises `Stopped`.
    """

    need: Need = ONE_CORE
    say: Callable[[str], object] = lambda _: None
    is_stopping: Callable[[], bool] = lambda: False

    def decode(self, dataset: Dataset, preprocessing: PreprocessingSpec) -> Iterator[Decoded]:
        """Yields the decoded records of a data set, in the order of the records, for `open_image_cache`."""
        if not has_room(ONE_CORE):  # trials may wait for nodes, but decoding must not
            yield from decode_here(dataset, preprocessing)
            return
        count = len(dataset.records)
        self.say(f"decoding {count:,} images of {dataset.name} on all nodes")
        reference = ray.put(dataset)  # sent once to each node, not with each piece
        work = partial(_open_decoding, reference, preprocessing)
        for columns in over_nodes(work, count, at_once=DECODED_AT_ONCE, is_stopping=self.is_stopping):
            for pixels, problem in zip(columns["pixels"], columns["problem"], strict=True):
                yield str(problem) or bytes(pixels)

    def describe(
        self, dataset: Dataset, indices: np.ndarray, config: TrialConfig, context: RunContext
    ) -> Iterator[str]:
        """Yields a caption for each of these images, in the given order, for `with_descriptions`."""
        from trainables.training.descriptions import ROWS_AT_ONCE

        open_image_cache(dataset, captioner_preprocessing(config.captioner), context.store, self.decode)
        self.say(f"captioning {len(indices):,} images of {dataset.name} on all nodes")
        work = partial(_open_captioning, ray.put(dataset), indices, config, context.store, self.need)
        for columns in self._over_nodes(work, len(indices), ROWS_AT_ONCE):
            yield from map(str, columns["sentence"])

    def caption(self, config: TrialConfig, store: Path) -> None:
        """Writes captions of a data set's images to the store, unless the store has them already.

        Raises:
            WeightsUnavailable: the weights of BLIP are not installed.
        """
        from trainables.training.descriptions import with_descriptions

        with_descriptions(load_dataset(config.data), config, LocalContext(Path(), store), self.describe)

    def embed(self, config: TrialConfig, store: Path) -> None:
        """Writes a frozen encoder's embeddings of all images to the store, unless the store has them already.

        Raises:
            WeightsUnavailable: the weights of the encoder are not installed.
        """
        assert config.adapt.method == "none", "a trial with an adapter embeds by itself"
        dataset, encoder = load_dataset(config.data), encoder_fingerprint(config.encoder)
        images = open_image_cache(dataset, model_preprocessing(config), store, self.decode)

        def compute() -> EmbeddingTable:
            count = len(images)
            self.say(f"embedding {count:,} images of {dataset.name} with {config.encoder.name} on all nodes")
            work = partial(_open_embedding, config, store, self.need)
            parts = list(self._over_nodes(work, count, EMBEDDED_AT_ONCE))
            image_ids, pooled, joint = (
                np.concatenate([part[name] for part in parts]) for name in ("image_id", "pooled", "joint")
            )
            return EmbeddingTable(image_ids.astype(str), pooled, joint)

        folder = embeddings_folder(store, images.fingerprint, encoder, adapter=None)
        store_embeddings(folder, compute, about={"encoder": encoder})

    def _over_nodes(self, work: Callable[[], Work], num_rows: int, at_once: int) -> Iterator[Columns]:
        return over_nodes(work, num_rows, at_once=at_once, need=self.need, is_stopping=self.is_stopping)


def _open_decoding(reference: Any, preprocessing: PreprocessingSpec) -> Work:
    dataset: Dataset = ray.get(reference)

    def work(indices: np.ndarray) -> Columns:
        images = decode_some(dataset, preprocessing, indices.tolist())
        return {
            "pixels": np.array(
                [image if isinstance(image, bytes) else b"" for image in images], dtype=object
            ),
            "problem": np.array([image if isinstance(image, str) else "" for image in images]),
        }

    return work


def _open_captioning(
    reference: Any, indices: np.ndarray, config: TrialConfig, store: Path, need: Need
) -> Work:
    from trainables.training.descriptions import open_captioner

    dataset: Dataset = ray.get(reference)
    describe = open_captioner(dataset, config, _context(config, store, need))
    return lambda positions: {"sentence": np.array(describe(indices[positions]))}


def _open_embedding(config: TrialConfig, store: Path, need: Need) -> Work:
    from trainables.training.trial_setup import set_up_trial

    # No cache of activations: the first worker would fill the cache for all images while the others wait.
    execution = config.execution.model_copy(update={"cache_budget_gb": 0.0})
    config = config.model_copy(update={"execution": execution})
    setup = set_up_trial(config, _context(config, store, need))

    def work(indices: np.ndarray) -> Columns:
        table = setup.embedding_table(indices)
        return {"image_id": table.image_ids, "pooled": table.pooled, "joint": table.joint}

    return work


def _context(config: TrialConfig, store: Path, need: Need) -> LocalContext:
    """Returns the context of a worker, and sets the number of threads to that of a trial."""
    import torch

    torch.set_num_threads(config.execution.num_threads or max(1, int(need.cpus)))
    return LocalContext(Path(), store, "cuda:0" if need.gpus else "cpu")
