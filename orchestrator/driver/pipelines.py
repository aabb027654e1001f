"""Decodes, captions and embeds over the nodes of a cluster, with Ray Data around the code of one machine.

Only for more than one node. On one machine the plain loop is faster: 1,000 images took it 5.4-6.3 s, and Ray
Data 6.5-11.9 s after 9.4 s to start. The results are the same, bit for bit.
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

# Imports inside functions: Ray Data and torch load only where a sweep spreads over nodes.

Columns = Mapping[str, np.ndarray]
"""Columns by name, all with the same number of rows."""
Work = Callable[[np.ndarray], Columns]
"""Computes columns of N rows from positions, int64 [N]."""

DECODED_AT_ONCE = 128
EMBEDDED_AT_ONCE = 256
"""`setup.ROWS_AT_ONCE`: with other batches, matrix products would round differently."""
ONE_CORE = Need(1, 1, 0)
ROOM_SECONDS = 5.0
"""How long work that just ended may still hold its resources."""
MAX_RESTARTS = 2
"""Of a worker whose node is lost. By default Ray Data restarts for ever, even if a model never fits."""


def over_nodes(
    open_work: Callable[[], Work],
    num_rows: int,
    *,
    at_once: int,
    need: Need = ONE_CORE,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Columns]:
    """Yields what workers compute for the positions 0…num_rows-1, piece by piece, in order.

    `open_work` is called once in each worker, and what it returns for `at_once` positions at a time.

    Raises:
        Stopped: `is_stopping`, asked after each piece, said so.
        ClusterError: no node has room for a worker now; Ray Data would wait without a word.
    """
    import ray.data

    if not has_room(need):
        raise ClusterError("other jobs use the resources of every node")
    starts = range(0, num_rows, at_once)
    num_workers = sum(need.places(node["Resources"]) for node in ray.nodes() if node["Alive"])
    pieces = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    with warnings.catch_warnings():  # TODO: by their names, when Ray (2.64) takes restarts as it takes cores
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
    except grpc.RpcError:  # a busy head; try it
        return True
    return True


class _Worker:
    """One worker process."""

    def __init__(self, open_work: Callable[[], Work], num_rows: int, at_once: int) -> None:
        self._work, self._num_rows, self._at_once = open_work(), num_rows, at_once

    def __call__(self, piece: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = int(piece["start"][0])
        return dict(self._work(np.arange(start, min(start + self._at_once, self._num_rows))))


@dataclass(frozen=True)
class Pipelines:
    """Computes once what all trials share, over nodes that share the store and the image files.

    Attributes:
        need: what a trial's worker takes of its node. Workers that run a model take as much, as memory was
            planned for it, and use as many threads, as sums round differently with others.
        say: shows a line to the user.
        is_stopping: says whether the user ends the sweep; every method then raises `Stopped`.
    """

    need: Need = ONE_CORE
    say: Callable[[str], object] = lambda _: None
    is_stopping: Callable[[], bool] = lambda: False

    def decode(self, dataset: Dataset, preprocessing: PreprocessingSpec) -> Iterator[Decoded]:
        """Decodes every record of a data set, in order, for `open_image_cache`."""
        if not has_room(ONE_CORE):  # trials can wait for nodes; decoding must not
            yield from decode_here(dataset, preprocessing)
            return
        count = len(dataset.records)
        self.say(f"decoding {count:,} images of {dataset.name} on all nodes")
        reference = ray.put(dataset)  # once to each node, not with each piece
        work = partial(_open_decoding, reference, preprocessing)
        for columns in over_nodes(work, count, at_once=DECODED_AT_ONCE, is_stopping=self.is_stopping):
            for pixels, problem in zip(columns["pixels"], columns["problem"], strict=True):
                yield str(problem) or bytes(pixels)

    def describe(
        self, dataset: Dataset, indices: np.ndarray, config: TrialConfig, context: RunContext
    ) -> Iterator[str]:
        """Describes these images, in order, for `with_descriptions`."""
        from trainables.training.descriptions import ROWS_AT_ONCE

        open_image_cache(dataset, captioner_preprocessing(config.captioner), context.store, self.decode)
        self.say(f"captioning {len(indices):,} images of {dataset.name} on all nodes")
        work = partial(_open_captioning, ray.put(dataset), indices, config, context.store, self.need)
        for columns in self._over_nodes(work, len(indices), ROWS_AT_ONCE):
            yield from map(str, columns["sentence"])

    def caption(self, config: TrialConfig, store: Path) -> None:
        """Writes the descriptions of a data set's images into the store, unless they are there.

        Raises:
            WeightsUnavailable: BLIP's weights are not here.
        """
        from trainables.training.descriptions import with_descriptions

        with_descriptions(load_dataset(config.data), config, LocalContext(Path(), store), self.describe)

    def embed(self, config: TrialConfig, store: Path) -> None:
        """Writes a frozen encoder's embeddings of every image into the store, unless they are there.

        Raises:
            WeightsUnavailable: its weights are not here.
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

    # Without a cache of activations: the first worker would fill it for all images while the others wait.
    execution = config.execution.model_copy(update={"cache_budget_gb": 0.0})
    config = config.model_copy(update={"execution": execution})
    setup = set_up_trial(config, _context(config, store, need))

    def work(indices: np.ndarray) -> Columns:
        table = setup.embedding_table(indices)
        return {"image_id": table.image_ids, "pooled": table.pooled, "joint": table.joint}

    return work


def _context(config: TrialConfig, store: Path, need: Need) -> LocalContext:
    """Returns the context of a worker, and sets as many threads as a trial has."""
    import torch

    torch.set_num_threads(config.execution.num_threads or max(1, int(need.cpus)))
    return LocalContext(Path(), store, "cuda:0" if need.gpus else "cpu")
