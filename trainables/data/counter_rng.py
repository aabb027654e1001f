"""Random numbers that depend only on their purpose, not on the order of calls or on the worker."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

_WORD = 2**64 - 1


def counter_rng(purpose: str, seed: int, *counters: int) -> np.random.Generator:
    """Returns a generator for (purpose, seed, counters): Philox, Salmon et al. 2011.

    Different arguments give independent streams.

    Args:
        purpose: name of what is drawn, e.g. "order"; each purpose has a separate stream.
        seed: used modulo 2**64.
        counters: at most three, e.g. epoch and image; each at least 0.
    """
    words = [0, *counters, *[0] * (3 - len(counters))]  # the lowest word counts the draws
    key = np.array([seed & _WORD, _stream(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array(words, dtype=np.uint64)))


@lru_cache(maxsize=64)
def _stream(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8])
