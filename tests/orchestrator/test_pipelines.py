"""Over two processes of a real Ray, against the plain loop of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.local_ray import local_ray
from orchestrator.resources import Concurrency
from trainables.artifacts import file_sha256
from trainables.config import TrialConfig, from_flat
from trainables.context import LocalContext
from trainables.data.cache import open_image_cache
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset
from trainables.embed import embed
from trainables.errors import DataError
from trainables.materials import open_materials
from trainables.models.registry import preprocessing_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray Data warns of deprecated options of its own, which it sets itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

PHANTOM = {"data.phantom.num_train": 24, "data.phantom.num_val": 150, "data.phantom.num_test": 120}
SMALL = PHANTOM | {
    "encoder.image_size": 32,
    "execution.num_threads": 1,
    "num_epochs": 1,
    "global_batch_size": 24,
}


@pytest.fixture(scope="module", autouse=True)
def ray_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    two = Concurrency(2, 1, 0.0, "cpu", "two processes")
    with local_ray(two, log=tmp_path_factory.mktemp("ray") / "ray.log"):
        yield


def trial(**changes: object) -> TrialConfig:
    return from_flat(SMALL | changes)


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


def test_the_image_cache_is_the_same_to_the_last_byte(tmp_path: Path) -> None:
    from orchestrator.pipelines import decode_over_nodes

    config = trial()
    dataset, preprocessing = load_dataset(config.data), preprocessing_of(config.encoder)
    plain = open_image_cache(dataset, preprocessing, tmp_path / "plain")
    spread = open_image_cache(dataset, preprocessing, tmp_path / "spread", decode_over_nodes)
    assert len(spread) == 294  # three pieces
    folders = [tmp_path / name / "images" / plain.fingerprint for name in ("plain", "spread")]
    assert files_of(folders[0]) == files_of(folders[1])


def test_every_bad_image_is_listed_at_once(tmp_path: Path) -> None:
    from orchestrator.pipelines import decode_over_nodes

    rows = ["path,label,patient_id,split"]
    for number in range(12):
        Image.fromarray(np.full((32, 32), number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        label = ("Normal", "COVID-19", "Non-COVID")[number % 3]
        rows.append(f"{number}.png,{label},p{number},{('train', 'val', 'test')[number // 3 % 3]}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    config = from_flat({"data.dataset": "manifest", "data.root": str(tmp_path)})
    dataset: Dataset = load_dataset(config.data)
    for number in (3, 7):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(DataError, match=r"3\.png.*\n.*7\.png"):
        open_image_cache(dataset, preprocessing_of(config.encoder), tmp_path / "store", decode_over_nodes)
    assert not list((tmp_path / "store" / "images").glob("*/shard*"))


@pytest.mark.faults
def test_embeddings_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    from orchestrator.pipelines import embed_over_nodes

    config = trial(**{"adapt.method": "lora", "lora.rank": 2})
    (tmp_path / "run").mkdir()
    context = LocalContext(tmp_path / "run", tmp_path / "store")
    with pytest.raises(DataError, match="run its trial first"):
        embed_over_nodes(config, context.store)
    embed(config, context)
    folder = open_materials(config, context).embeddings_folder
    plain = files_of(folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    table = embed_over_nodes(config, context.store)
    assert table.pooled.shape[0] == 294  # two pieces
    assert files_of(folder) == plain


def test_any_function_of_positions_runs_over_the_workers_in_order() -> None:
    from orchestrator.pipelines import over_nodes

    def open_work(factor: int):
        def caption(indices: np.ndarray) -> dict[str, np.ndarray]:
            texts = np.array([f"image {factor * index}" for index in indices])
            return {"caption": texts, "process": np.full(len(indices), os.getpid())}

        return caption

    parts = list(over_nodes(partial(open_work, 2), 50, at_once=3))
    captions = np.concatenate([part["caption"] for part in parts]).tolist()
    assert captions == [f"image {2 * index}" for index in range(50)]
    assert os.getpid() not in {int(pid) for part in parts for pid in part["process"]}
