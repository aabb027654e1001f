import numpy as np

from trainables.data.counter_rng import counter_rng


def test_streams_differ_by_purpose_seed_and_every_counter():
    keys = [("a", 0), ("b", 0), ("a", 1), ("a", 0, 1), ("a", 0, 0, 1), ("a", 0, 0, 0, 1), ("a", 2**64 - 1)]
    draws = {counter_rng(*key).integers(2**63) for key in keys}
    assert len(draws) == len(keys)


def test_a_stream_is_repeatable_and_uniform():
    values = np.array([counter_rng("a", 5, i).random() for i in range(2000)])
    np.testing.assert_array_equal(values, [counter_rng("a", 5, i).random() for i in range(2000)])
    assert abs(values.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.07
