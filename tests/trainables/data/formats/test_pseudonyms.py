import hashlib
import hmac

from trainables.data.formats.pseudonyms import key_of_images, keyed_hash


def test_the_hash_is_hmac_sha256():
    expected = hmac.new(b"key", b"4711", hashlib.sha256).hexdigest()
    assert expected.startswith(keyed_hash("4711", b"key"))
    assert len(keyed_hash("4711", b"key")) == 32


def test_every_machine_with_the_same_images_has_the_same_key():
    assert key_of_images(["a", "b", "c"]) == key_of_images(reversed(["a", "b", "c"]))
    assert len({key_of_images(hashes) for hashes in (["a", "b"], ["a", "c"], ["a", "b", "b"], ["ab"])}) == 4
