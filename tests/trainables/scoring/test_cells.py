import numpy as np
import pytest

from trainables.scoring.cells import area_means

pytestmark = pytest.mark.kernels


def test_area_means_keep_the_mean_whatever_the_size() -> None:
    images = np.random.default_rng(0).integers(256, size=(3, 50, 37), dtype=np.uint8)
    means = area_means(images, 8, 8)
    assert means.mean((1, 2)) == pytest.approx(images.mean((1, 2)), rel=1e-5)
    blocks = images[:, :48, :32].reshape(3, 8, 6, 8, 4).mean((2, 4))
    assert area_means(images[:, :48, :32], 8, 8) == pytest.approx(blocks, rel=1e-5)
