import numpy as np
import pytest

from trainables.data.formats.greys import windowed

DEEP = np.tile(np.arange(0, 4096, 32, dtype=np.uint16), (128, 1))
TYPES = [np.uint16, np.int32, np.float32]


@pytest.mark.parametrize("dtype", TYPES)
def test_a_lead_marker_does_not_darken_the_image(dtype):
    marked = DEEP.copy()
    marked[:8, :8] = 65535
    grey = windowed(marked.astype(dtype))
    assert abs(grey.mean() - windowed(DEEP.astype(dtype)).mean()) < 2
    assert (grey[:8, :8] == 255).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_few_bright_pixels_on_a_flat_image_are_seen(dtype):
    """A 16-bit mask of a small lesion: almost all pixels are equal."""
    mask = np.zeros((128, 128), dtype=dtype)
    mask[60:64, 60:64] = 1
    np.testing.assert_array_equal(windowed(mask), 255 * mask.astype(np.uint8))


def test_the_table_of_levels_equals_the_direct_way():
    values = np.random.default_rng(0).integers(0, 40_000, (256, 256), dtype=np.uint16)
    difference = windowed(values).astype(int) - windowed(values.astype(np.float64))
    assert abs(difference).max() <= 1


def test_nothing_visible_is_black():
    assert not windowed(DEEP, np.zeros(DEEP.shape, dtype=bool)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_missing_values_are_refused(bad):
    values = DEEP.astype(np.float32)
    values[3, 3] = bad
    with pytest.raises(ValueError, match="infinite or missing"):
        windowed(values)
