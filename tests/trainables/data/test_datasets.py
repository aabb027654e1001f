import numpy as np
import pytest

from trainables.config import DataConfig, PhantomConfig
from trainables.data.datasets import DATASETS, load_dataset
from trainables.errors import ConfigError, DataError

SMALL = PhantomConfig(num_train=12, num_val=6, num_test=6)


def test_unknown_data_set_offers_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'phantom'"):
        load_dataset(DataConfig(dataset="phantoms"))
    assert "covid_qu_ex" in DATASETS


def test_test_labels_and_reports_are_withheld_unless_opened():
    closed = load_dataset(DataConfig(phantom=SMALL))
    opened = load_dataset(DataConfig(phantom=SMALL), with_test_labels=True)
    for i in closed.indices("test"):
        assert closed.records[i].labels == {}
        assert closed.records[i].finding_text is None
    with pytest.raises(ValueError, match="withheld"):
        closed.class_indices(closed.indices("test"))
    assert np.bincount(opened.class_indices(opened.indices("test"))).sum() == 6
    assert closed.fingerprint == opened.fingerprint
    assert all(record.labels for record in closed.records if record.split != "test")


def test_fingerprints_follow_the_bytes_of_the_files(films, reread):
    config = DataConfig(dataset="covid_qu_ex", root=films)
    before = load_dataset(config)
    film = films / "Train/Normal/images/Normal-20.png"
    film.write_bytes(film.read_bytes() + b"\0")  # still decodes to the same pixels
    reread()
    after = load_dataset(config)
    assert before.content_fingerprint != after.content_fingerprint
    assert before.fingerprint != after.fingerprint


def test_records_are_sorted_and_fingerprints_know_labels_seed_and_amplitude():
    ids = [record.image_id for record in load_dataset(DataConfig(phantom=SMALL)).records]
    assert ids == sorted(ids)
    configs = [
        DataConfig(phantom=SMALL),
        DataConfig(phantom=SMALL, seed=1),
        DataConfig(phantom=SMALL.model_copy(update={"lesion_amplitude": 0.5})),
        DataConfig(phantom=SMALL.model_copy(update={"images_per_patient": 1})),
    ]
    assert len({load_dataset(config).content_fingerprint for config in configs}) == 4


def test_split_without_a_class_is_refused(films):
    for film in (films / "Val/Normal/images").iterdir():
        film.unlink()
    with pytest.raises(DataError, match="split 'val' has no image of Normal"):
        load_dataset(DataConfig(dataset="covid_qu_ex", root=films))
