"""Over two processes of a real Ray, against the plain loop of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from narrow_blip import save_narrow_blip
from PIL import Image

from orchestrator.cluster.local_ray import local_ray
from orchestrator.cluster.resources import Concurrency
from orchestrator.driver.signals import Stopped
from trainables.artifacts import file_sha256
from trainables.config import TrialConfig, from_flat
from trainables.context import LocalContext
from trainables.data.cache import open_image_cache
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset
from trainables.errors import ClusterError, DataError
from trainables.models.catalogue.registry import preprocessing_of
from trainables.training.descriptions import with_descriptions
from trainables.trials.embed import embed

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
    from orchestrator.driver.pipelines import Pipelines

    config = trial()
    dataset, preprocessing = load_dataset(config.data), preprocessing_of(config.encoder)
    plain = open_image_cache(dataset, preprocessing, tmp_path / "plain")
    spread = open_image_cache(dataset, preprocessing, tmp_path / "spread", Pipelines().decode)
    assert len(spread) == 294  # three pieces
    folders = [tmp_path / name / "images" / plain.fingerprint for name in ("plain", "spread")]
    assert files_of(folders[0]) == files_of(folders[1])


def test_every_bad_image_is_listed_at_once(tmp_path: Path) -> None:
    from orchestrator.driver.pipelines import Pipelines

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
        open_image_cache(dataset, preprocessing_of(config.encoder), tmp_path / "store", Pipelines().decode)
    assert not list((tmp_path / "store" / "images").glob("*/shard*"))


@pytest.mark.faults
def test_what_a_frozen_trial_would_embed_is_there_to_the_last_bit(tmp_path: Path) -> None:
    from orchestrator.driver.pipelines import Pipelines

    config, said = trial(**{"adapt.method": "none"}), list[str]()
    (tmp_path / "run").mkdir()
    context = LocalContext(tmp_path / "run", tmp_path / "plain")
    embed(config, context)
    for _ in range(2):
        Pipelines(say=said.append).embed(config, tmp_path / "spread")
    assert said == [
        "decoding 294 images of phantom on all nodes",
        "embedding 294 images of phantom with lite0-minilm on all nodes",  # two pieces
    ]
    plain, spread = ([*(tmp_path / name / "embeddings").glob("*[!k]")] for name in ("plain", "spread"))
    assert [path.name for path in spread] == [path.name for path in plain]  # where a trial looks
    assert files_of(spread[0]) == files_of(plain[0])


@pytest.mark.faults
def test_the_words_on_the_images_are_those_of_one_machine(tmp_path: Path) -> None:
    from orchestrator.driver.pipelines import Pipelines

    blip = save_narrow_blip(tmp_path / "blip")
    changes = {"data.captions": "blip_label", "captioner.name": str(blip), "captioner.max_new_tokens": 6}
    config, said = trial(**changes), list[str]()
    with_descriptions(load_dataset(config.data), config, LocalContext(tmp_path, tmp_path / "plain"))
    for _ in range(2):
        Pipelines(say=said.append).caption(config, tmp_path / "spread")
    assert said[1:] == ["captioning 174 images of phantom on all nodes"]  # three pieces; none of test
    plain, spread = ([*(tmp_path / name / "descriptions").glob("*[!k]")] for name in ("plain", "spread"))
    assert [path.name for path in spread] == [path.name for path in plain]
    assert files_of(spread[0]) == files_of(plain[0])


def test_any_function_of_positions_runs_over_the_workers_in_order() -> None:
    from orchestrator.driver.pipelines import over_nodes

    def open_work(factor: int):
        def caption(indices: np.ndarray) -> dict[str, np.ndarray]:
            texts = np.array([f"image {factor * index}" for index in indices])
            return {"caption": texts, "process": np.full(len(indices), os.getpid())}

        return caption

    parts = list(over_nodes(partial(open_work, 2), 50, at_once=3))
    captions = np.concatenate([part["caption"] for part in parts]).tolist()
    assert captions == [f"image {2 * index}" for index in range(50)]
    assert os.getpid() not in {int(pid) for part in parts for pid in part["process"]}


def test_stop_is_heard_after_the_running_piece(tmp_path: Path) -> None:
    from orchestrator.driver.pipelines import Pipelines

    config = trial()
    dataset, preprocessing = load_dataset(config.data), preprocessing_of(config.encoder)
    with pytest.raises(Stopped):
        open_image_cache(dataset, preprocessing, tmp_path, Pipelines(is_stopping=lambda: True).decode)
    assert [path.name for path in (tmp_path / "images").glob("[!.]*")] == []


@pytest.mark.faults
def test_a_worker_that_dies_whenever_it_starts_is_given_up() -> None:
    """As a model that fits into no memory: for ever, if Ray Data had its way."""
    from ray.exceptions import ActorDiedError

    from orchestrator.driver.pipelines import over_nodes

    with pytest.raises(ActorDiedError):
        list(over_nodes(partial(os._exit, 3), 6, at_once=2))


def test_where_others_hold_every_place_it_is_said_and_images_are_decoded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.cluster.placement import Need
    from orchestrator.driver import pipelines

    monkeypatch.setattr(pipelines, "ROOM_SECONDS", 0.2)
    with pytest.raises(ClusterError, match="other jobs use the resources of every node"):
        next(pipelines.over_nodes(lambda: lambda rows: {"row": rows}, 3, at_once=1, need=Need(1, 1, 1)))
    assert pipelines.has_room(pipelines.ONE_CORE)
    monkeypatch.setattr(pipelines, "has_room", lambda _: False)
    said: list[str] = []
    config = trial()
    dataset, preprocessing = load_dataset(config.data), preprocessing_of(config.encoder)
    open_image_cache(dataset, preprocessing, tmp_path, pipelines.Pipelines(say=said.append).decode)
    assert said == []
