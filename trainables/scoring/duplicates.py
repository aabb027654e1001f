"""Finds images that look alike: all pairs of perceptual hashes are compared, in tiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trainables.scoring.cells import area_means

HASH_CELLS = 16
MAX_HAMMING = 24
"""Two images look alike if at most this many of the 512 bits of their hashes differ.

Measured on squashed thumbnails of 64 × 64 px. 999 images are in xray3 (256 px) and in nih_mini (224 px).
Their hashes differ in at most 9 bits. Images of two patients differ in 55 bits or more (3.7 million pairs),
and two images of one patient in 47 or more. All copies are found if they are stored as JPEG
at quality 90, halved, squashed, or given another gamma (.7 to 1.5) or a white marker; 99 % are found at
quality 50. If each side is cropped by 1 %, 93 % of the copies are found; by 2 %, 6 %. If the limit is raised
by 10 bits, about 6 times as many pairs of two patients are found. By this rate, a few dozen such pairs are
expected among 110,000 patients, so a person must look at them.
"""
TILE = 512
"""Hashes on each side of a tile. The distances of a tile stay in the cache of a processor."""
FEW = 64
"""If at most one pair in 64 of a tile is still close, its remaining words are compared pair by pair."""
MAX_PAIRS = 1_000_000
"""Pairs kept before they are merged into groups, so that thousands of equal images need no memory."""

OnProgress = Callable[[float], None]
"""Receives the compared fraction, in [0, 1]."""


def perceptual_hash(images: np.ndarray) -> np.ndarray:
    """Returns a perceptual hash of 512 bits, uint64 [B, 8]: the signs of steps on a 16 × 16 grid (dHash)."""
    across = np.diff(area_means(images, HASH_CELLS, HASH_CELLS + 1), axis=2) > 0
    down = np.diff(area_means(images, HASH_CELLS + 1, HASH_CELLS), axis=1) > 0
    bits = np.concatenate([across.reshape(len(images), -1), down.reshape(len(images), -1)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint64)


def look_alikes(hashes: np.ndarray, on_progress: OnProgress | None = None) -> list[np.ndarray]:
    """Returns groups of images that look alike: ascending positions, int64 [2 or more].

    Two images are in one group if their hashes, uint64 [N, 8], differ in at most 24 bits, or if a chain of
    such pairs connects them. An image without a partner is in no group.
    """
    distinct, of_image = np.unique(hashes, axis=0, return_inverse=True)
    group = np.arange(len(distinct))
    kept: list[np.ndarray] = []
    for pairs in near_pairs(distinct, on_progress):
        kept.append(pairs)
        if sum(map(len, kept)) > MAX_PAIRS:
            group, kept = _merged(group, kept), []
    return _members(_merged(group, kept)[of_image.reshape(-1)])


def near_pairs(hashes: np.ndarray, on_progress: OnProgress | None = None) -> Iterator[np.ndarray]:
    """Yields all pairs i < j of hashes uint64 [N, 8] that differ in at most 24 bits, int64 [P, 2] per tile.

    No pair is missed. The tiles are compared by several threads.
    """
    words, starts = np.ascontiguousarray(hashes.T), range(0, len(hashes), TILE)
    tiles = [(first, second) for first in starts for second in starts if second >= first]
    num_threads = os.cpu_count() or 1
    at_once = 8 * num_threads  # bounds the pairs that wait here
    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(tiles), at_once):
            found = pool.map(partial(_near_in_tile, words), tiles[start : start + at_once])
            yield from (pairs for pairs in found if len(pairs))
            if on_progress is not None:
                on_progress(min(1.0, (start + at_once) / len(tiles)))


def nearest_unlike(hashes: np.ndarray, group: np.ndarray, labels: np.ndarray) -> tuple[int, int] | None:
    """Returns a pair of a group that looks alike but has contrary labels, or None.

    Args:
        hashes: uint64 [N, 8], of all images.
        group: positions of the images of one group, int64 [M].
        labels: 1, 0 or -1 (unknown), int8 [M, K], such as whether an image is in a split. One image has 1
            where the other has 0.
    """
    positive, negative = labels == 1, labels == 0
    is_contrary = positive.any(axis=0) & negative.any(axis=0)
    if not is_contrary.any():
        return None
    positive, negative = positive[:, is_contrary], negative[:, is_contrary]
    for row, image in enumerate(group.tolist()):
        unlike = (positive & negative[row] | negative & positive[row]).any(axis=1)
        if not unlike.any():
            continue
        distances = np.bitwise_count(hashes[group] ^ hashes[image]).sum(axis=1)
        unlike = np.flatnonzero((distances <= MAX_HAMMING) & unlike)
        if len(unlike):
            return image, int(group[unlike[np.argmin(distances[unlike])]])
    return None


def _near_in_tile(words: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """Returns the near pairs of a tile of hashes uint64 [8, N]."""
    first, second = tile
    left, right = words[:, first : first + TILE], words[:, second : second + TILE]
    distance = np.zeros((left.shape[1], right.shape[1]), np.uint16)
    for word, (ours, theirs) in enumerate(zip(left, right, strict=True)):
        distance += np.bitwise_count(ours[:, None] ^ theirs)
        # After two of eight words, about 3 % of the pairs of two radiographs are within 24 bits.
        if word > 0 and np.count_nonzero(distance <= MAX_HAMMING) * FEW < distance.size:
            break
    i, j = np.nonzero(distance <= MAX_HAMMING)
    is_near = np.bitwise_count(left[:, i] ^ right[:, j]).sum(axis=0) <= MAX_HAMMING
    pairs = np.stack([i[is_near] + first, j[is_near] + second], axis=1)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def _merged(group: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    """Returns the group of each hash, int64 [N], after the groups of each pair have become one."""
    if not pairs:
        return group
    edges = group[np.concatenate(pairs)]
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(len(group),) * 2)
    return connected_components(graph, directed=False)[1][group]


def _members(group: np.ndarray) -> list[np.ndarray]:
    """Returns the images of each group with at least two, in the order of their first image."""
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))
