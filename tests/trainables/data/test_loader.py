import numpy as np
import pytest

from trainables.config import DataConfig, PhantomConfig, TrialConfig
from trainables.data.datasets import load_dataset
from trainables.data.loader import GlobalBatch, global_batches, steps_per_epoch
from trainables.errors import DataError


def trial(num_train=50, batch=16, num_epochs=3, **options):
    data = DataConfig(phantom=PhantomConfig(num_train=num_train, num_val=6, num_test=6), **options)
    config = TrialConfig(data=data, global_batch_size=batch, num_epochs=num_epochs)
    return load_dataset(data), config


@pytest.mark.parametrize(
    ("num_train", "batch", "sizes"),
    [(50, 16, [16, 16, 16, 2]), (49, 16, [16, 16, 17]), (48, 16, [16] * 3), (10, 16, [10])],
)
def test_an_epoch_shows_every_train_image_once_whatever_the_tail(num_train, batch, sizes):
    dataset, config = trial(num_train, batch, num_epochs=1)
    batches = list(global_batches(dataset, config))
    assert [len(b) for b in batches] == sizes
    assert len(batches) == steps_per_epoch(num_train, batch)
    assert sorted(np.concatenate([b.indices for b in batches])) == dataset.indices("train").tolist()


def test_resumed_training_sees_what_it_would_have_seen():
    dataset, config = trial()
    whole = list(global_batches(dataset, config))
    for start in (0, 3, 5, 11):
        resumed = list(global_batches(dataset, config, start_step=start))
        assert [b.step for b in resumed] == list(range(start, 12))
        for a, b in zip(whole[start:], resumed, strict=True):
            assert (a.step, a.epoch, a.captions) == (b.step, b.epoch, b.captions)
            for field in ("indices", "views", "classes"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_distinct_captions_keep_the_order_of_first_occurrence():
    captions = ["b", "a", "b", "c", "a"]
    batch = GlobalBatch(0, 0, np.arange(5), np.zeros(5), captions, np.zeros(5))
    distinct = list(batch.distinct_captions)
    assert distinct == ["b", "a", "c"]
    assert [distinct[text] for text in batch.text_of_pair] == captions
    assert list(batch.distinct_captions.values()) == [0, 1, 3]


def test_order_changes_with_seed_and_epoch_only():
    dataset, config = trial()
    first = [b.indices.tolist() for b in global_batches(dataset, config)]
    again = [b.indices.tolist() for b in global_batches(dataset, config.model_copy(update={"num_epochs": 1}))]
    other = [b.indices.tolist() for b in global_batches(dataset, config.model_copy(update={"seed": 1}))]
    assert first[:4] == again
    assert first[0] != first[4]
    assert first[0] != other[0]


def test_rows_of_a_batch_belong_together():
    dataset, config = trial()
    batch = next(global_batches(dataset, config))
    np.testing.assert_array_equal(batch.classes, dataset.class_indices(batch.indices))
    assert len(batch.captions) == len(batch.views) == len(batch.indices)
    assert batch.indices.dtype == batch.views.dtype == batch.classes.dtype == np.int64


def test_without_augmentation_every_view_is_the_image_itself():
    dataset, config = trial(augmentation="none")
    assert not any(b.views.any() for b in global_batches(dataset, config))


def test_a_single_pair_is_refused():
    with pytest.raises(DataError, match="a pair to contrast with"):
        steps_per_epoch(1, 16)
