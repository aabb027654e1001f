"""Replaces patient ids by keyed hashes, so that images can be grouped by patient without the ids."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

HASH_CHARACTERS = 32
"""128 bits: two patients of one data set never share a hash."""


def key_of_images(content: Iterable[str]) -> bytes:
    """Returns the key of a data set, made from the hashes of its image files in any order.

    Every machine with the same files has the same key, so fingerprints agree between nodes and after a
    resume. Somebody without all the files cannot compute the key, so they cannot try patient ids. Somebody
    with the files can read the ids in them anyway (decision 0032).
    """
    digest = hashlib.sha256(b"patients of a data set\n")
    for line in sorted(content):
        digest.update(line.encode() + b"\n")
    return digest.digest()


def keyed_hash(text: str, key: bytes) -> str:
    """Returns the HMAC-SHA256 of a text in hexadecimal, shortened to 128 bits."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:HASH_CHARACTERS]
