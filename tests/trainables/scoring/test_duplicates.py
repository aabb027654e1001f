from itertools import combinations

import numpy as np
import pytest
from films import chests

from trainables.scoring import duplicates
from trainables.scoring.duplicates import (
    MAX_HAMMING,
    look_alikes,
    near_pairs,
    nearest_unlike,
    perceptual_hash,
)


def flipped(hashes: np.ndarray, num_bits: int, rng: np.random.Generator) -> np.ndarray:
    """Returns hashes uint64 [N, 8] with this number of bits changed in each."""
    bits = np.zeros((len(hashes), 512), np.uint8)
    for row in bits:
        row[rng.choice(512, num_bits, replace=False)] = 1
    return hashes ^ np.packbits(bits, axis=1).view(np.uint64)


def plain_pairs(hashes: np.ndarray) -> set[tuple[int, int]]:
    """Compares each pair by itself, as the audit did before it compared tiles."""
    return {
        (i, j)
        for i, j in combinations(range(len(hashes)), 2)
        if np.bitwise_count(hashes[i] ^ hashes[j]).sum() <= MAX_HAMMING
    }


@pytest.fixture
def hashes() -> np.ndarray:
    """Hashes that agree in most bits, as those of radiographs do, and copies at and around the limit."""
    rng = np.random.default_rng(0)
    films = flipped(rng.integers(0, 2**63, (1, 8), dtype=np.uint64).repeat(150, axis=0), 90, rng)
    copies = [flipped(films[10 * i : 10 * i + 5], n, rng) for i, n in enumerate((0, 1, 23, 24, 25, 26))]
    return np.concatenate([films, *copies])


@pytest.mark.parametrize("tile", [1, 7, 64, 512])
def test_tiles_find_the_pairs_that_a_plain_loop_finds(hashes, tile, monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "TILE", tile)
    found = np.concatenate(list(near_pairs(hashes)))
    expected = plain_pairs(hashes)
    assert len(expected) == 20  # five copies each at a distance of 0, 1, 23 and 24
    assert len(found) == len(expected)
    assert set(map(tuple, found.tolist())) == expected


@pytest.mark.parametrize("few", [1, 64, 10**9])
def test_the_early_exit_changes_no_result(hashes, few, monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "FEW", few)
    assert set(map(tuple, np.concatenate(list(near_pairs(hashes))).tolist())) == plain_pairs(hashes)


def test_look_alikes_are_the_connected_images(hashes) -> None:
    groups = {frozenset(group.tolist()) for group in look_alikes(hashes)}
    assert groups == {frozenset(pair) for pair in plain_pairs(hashes)}


def test_a_chain_of_look_alikes_is_one_group() -> None:
    first, step = np.zeros((1, 8), np.uint64), np.array([[2**20 - 1] + [0] * 7], np.uint64)
    second = first ^ step
    third = second ^ np.roll(step, 1)  # 20 bits from the second and 40 from the first
    groups = look_alikes(np.concatenate([third, first, second]))
    assert [group.tolist() for group in groups] == [[0, 1, 2]]


def test_thousands_of_equal_and_nearly_equal_images_are_one_group(monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 10_000)
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2**63, (1, 8), dtype=np.uint64)
    many = np.concatenate([one.repeat(5000, axis=0), flipped(one.repeat(600, axis=0), 8, rng)])
    groups = look_alikes(many)
    assert [len(group) for group in groups] == [5600]


def test_progress_grows_to_one(hashes, monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "TILE", 10)
    told: list[float] = []
    list(near_pairs(hashes, told.append))
    assert told == sorted(told)
    assert len(told) > 1
    assert told[-1] == 1.0


def test_no_image_and_one_image_have_no_look_alikes() -> None:
    assert look_alikes(np.zeros((0, 8), np.uint64)) == []
    assert look_alikes(np.zeros((1, 8), np.uint64)) == []


def test_the_pair_of_two_kinds_is_near_itself() -> None:
    first, step = np.zeros((1, 8), np.uint64), np.array([[2**20 - 1] + [0] * 7], np.uint64)
    second = first ^ step
    hashes = np.concatenate([first, second, second ^ np.roll(step, 1)])
    group = np.arange(3)
    train, test, unknown = [1, 0], [0, 1], [-1, -1]
    for labels, pair in (
        ([train, train, test], (1, 2)),
        ([train, unknown, test], None),
        ([train, train, train], None),
        ([[1, 1], [1, -1], [1, 1]], None),  # unknown is not contrary
        ([[1, 1], [0, 1], [1, 0]], (0, 1)),  # one label is enough
    ):
        assert nearest_unlike(hashes, group, np.array(labels, np.int8)) == pair


def test_a_hash_survives_noise_and_contrast_and_not_another_film() -> None:
    films, rng = chests(2), np.random.default_rng(1)
    changed = (films[0] * 0.8 + rng.normal(10, 2, films[0].shape)).clip(0, 255).astype(np.uint8)
    hashes = perceptual_hash(np.stack([*films, changed]))
    assert np.bitwise_count(hashes[0] ^ hashes[2]).sum() <= MAX_HAMMING
    assert np.bitwise_count(hashes[0] ^ hashes[1]).sum() > 2 * MAX_HAMMING
