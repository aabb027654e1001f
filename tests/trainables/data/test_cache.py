import shutil

import numpy as np
import pytest
from PIL import Image

from trainables.artifacts import file_sha256, locked, verify
from trainables.config import DataConfig, PhantomConfig, PreprocessingSpec
from trainables.data import cache as cache_module
from trainables.data.cache import decode_unless_busy, open_image_cache
from trainables.data.datasets import load_dataset
from trainables.data.transforms import fit
from trainables.errors import DataError

SMALL = DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6))


@pytest.fixture
def dataset():
    return load_dataset(SMALL)


def test_images_are_those_decoded_and_fitted_in_any_order(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD_IMAGES", 5)  # an uneven last shard
    spec = PreprocessingSpec(size=48)
    cache = open_image_cache(dataset, spec, tmp_path)
    indices = np.array([23, 0, 7, 7, 4, 5])
    expected = np.stack([fit(dataset.decode(dataset.records[i]), spec) for i in indices])
    np.testing.assert_array_equal(cache.images(indices), expected)
    assert cache.images(indices).dtype == np.uint8
    assert len(cache) == 24


def test_second_opening_decodes_nothing_and_reads_the_same(dataset, tmp_path, monkeypatch):
    spec = PreprocessingSpec(size=32)
    first = open_image_cache(dataset, spec, tmp_path)
    monkeypatch.setattr(cache_module, "_try_decode", None)
    second = open_image_cache(dataset, spec, tmp_path)
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.images(np.arange(24)), second.images(np.arange(24)))


def test_cache_does_not_depend_on_folds_labels_or_normalisation(tmp_path):
    spec, larger = PreprocessingSpec(size=32), PhantomConfig(num_train=90, num_val=10, num_test=10)
    datasets = [
        load_dataset(DataConfig(phantom=larger, **options))
        for options in ({}, {"num_folds": 2, "fold": 0}, {"permute_labels": True})
    ]
    keys = {open_image_cache(dataset, spec, tmp_path).fingerprint for dataset in datasets}
    keys.add(open_image_cache(datasets[0], spec.model_copy(update={"mean": (0.1,)}), tmp_path).fingerprint)
    assert len(keys) == 1


def test_size_interpolation_and_bytes_of_a_file_are_cache_misses(films, tmp_path, reread):
    config, spec = DataConfig(dataset="covid_qu_ex", root=films), PreprocessingSpec(size=32)
    film = films / "Train/Normal/images/Normal-20.png"
    keys = [open_image_cache(load_dataset(config), spec, tmp_path).fingerprint]
    keys.append(open_image_cache(load_dataset(config), PreprocessingSpec(size=16), tmp_path).fingerprint)
    bilinear = PreprocessingSpec(size=32, interpolation="bilinear")
    keys.append(open_image_cache(load_dataset(config), bilinear, tmp_path).fingerprint)
    Image.fromarray(255 - np.asarray(Image.open(film))).save(film)
    reread()
    changed = open_image_cache(load_dataset(config), spec, tmp_path)
    assert len({*keys, changed.fingerprint}) == 4
    row = next(i for i, r in enumerate(load_dataset(config).records) if r.path == film)
    np.testing.assert_array_equal(changed.images(np.array([row]))[0], fit(np.asarray(Image.open(film)), spec))


def test_stored_shards_match_their_manifest_and_are_not_pickles(dataset, tmp_path):
    cache = open_image_cache(dataset, PreprocessingSpec(size=32), tmp_path)
    folder = tmp_path / "images" / cache.fingerprint
    verify(folder)
    assert (folder / "shard-00000.arrow").read_bytes().startswith(b"ARROW1")
    assert len(file_sha256(folder / "shard-00000.arrow")) == 64


def test_every_bad_image_is_listed_with_its_row_and_nothing_is_stored(write_manifest, tmp_path):
    root = write_manifest()
    (root / "film-03.png").write_bytes(b"")
    (root / "film-41.png").write_bytes((root / "film-41.png").read_bytes()[:-300])
    dataset = load_dataset(DataConfig(dataset="manifest", root=root))
    store = tmp_path / "store"
    with pytest.raises(DataError, match=r"unusable images of manifest \(2\)") as error:
        open_image_cache(dataset, PreprocessingSpec(size=32), store)
    assert "film-03.png (manifest.csv line 5): the file is empty (0 bytes)" in str(error.value)
    assert "film-41.png (manifest.csv line 43): cannot be decoded" in str(error.value)
    assert not [p for p in (store / "images").iterdir() if p.is_dir()]


def test_a_cache_that_another_process_fills_is_left_to_it(dataset, tmp_path):
    spec = PreprocessingSpec(size=16)
    decode_unless_busy(dataset, spec, tmp_path)
    (folder,) = (path for path in (tmp_path / "images").iterdir() if path.is_dir())
    assert len(open_image_cache(dataset, spec, tmp_path)) == len(dataset.records)
    shutil.rmtree(folder)
    with locked(folder.with_name(f".{folder.name}.lock")):
        decode_unless_busy(dataset, spec, tmp_path)
    assert not folder.exists()
