import numpy as np
import pytest
from PIL import Image

from trainables.config import PreprocessingSpec
from trainables.data.transforms import _rotated_crop, augment, fit, view_of

FILM = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 5), dtype=np.uint8)).resize((96, 96))
)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64), (31, 47)])
def test_fit_keeps_the_aspect_ratio(shape):
    """A disc stays a disc: its height equals its width after fitting."""
    rows, columns = np.indices(shape)
    radius = 0.3 * min(shape)
    disc = (rows - shape[0] / 2) ** 2 + (columns - shape[1] / 2) ** 2 < radius**2
    fitted = fit((255 * disc).astype(np.uint8), PreprocessingSpec(size=128)) > 127
    height, width = np.ptp(np.nonzero(fitted)[0]), np.ptp(np.nonzero(fitted)[1])
    assert height == pytest.approx(width, abs=5)
    assert height == pytest.approx(0.6 * 128, abs=8)


def test_fit_cuts_the_centre():
    film = np.zeros((50, 150), dtype=np.uint8)
    film[:, 50:100] = 200
    assert (fit(film, PreprocessingSpec(size=50)) == 200).all()


def test_steps_that_are_not_taken_leave_a_fingerprint_as_it_was():
    assert PreprocessingSpec().fitting() == {"size": 224, "crop": "center", "interpolation": "bicubic"}
    assert PreprocessingSpec(pad="after").fitting()["pad"] == "after"


@pytest.mark.parametrize(
    ("spec", "height", "width"),
    [
        ({"pad": "before"}, 24, 48),  # squared at its own size, then resized
        ({"pad": "after"}, 24, 48),
        ({"pad": "after", "oversize": 1.5, "crop": "none", "interpolation": "lanczos"}, 24, 48),
        (
            {"pad": "after", "oversize": 1.5, "interpolation": "area"},
            36,
            48,
        ),  # 72 px, of which 48 are cut out
        ({"crop": "none"}, 48, 48),
    ],
)
def test_a_padded_image_is_whole_on_black_and_a_squashed_one_fills_the_square(spec, height, width):
    fitted = fit(np.full((60, 120), 200, dtype=np.uint8), PreprocessingSpec(size=48, **spec))
    lit = fitted > 100
    assert fitted.shape == (48, 48)
    assert (lit.any(1).sum(), lit.any(0).sum()) == (height, width)
    assert lit.any(1)[24]


def test_small_images_are_padded_before_they_would_be_enlarged():
    fitted = fit(np.full((20, 30), 200, dtype=np.uint8), PreprocessingSpec(size=48, pad="before"))
    assert (fitted > 100).sum() == 20 * 30


def test_a_full_window_uses_every_grey():
    film = np.tile(np.arange(100, 150, dtype=np.uint8), (50, 1))
    fitted = fit(film, PreprocessingSpec(size=50, window="full"))
    assert (fitted.min(), fitted.max()) == (0, 255)
    assert not fit(np.full((50, 50), 7, dtype=np.uint8), PreprocessingSpec(size=50, window="full")).any()


def test_augmentation_is_a_pure_function_of_its_counters():
    views = {
        key: augment(FILM, seed=key[0], view=key[1], image_index=key[2])
        for key in [(0, 1, 0), (0, 2, 0), (0, 1, 1), (1, 1, 0)]
    }
    assert len({view.tobytes() for view in views.values()}) == 4
    np.testing.assert_array_equal(views[0, 1, 0], augment(FILM, seed=0, view=1, image_index=0))
    assert all(view.shape == FILM.shape and view.dtype == np.uint8 for view in views.values())


def test_view_zero_is_the_image_itself():
    assert augment(FILM, seed=3, view=0, image_index=5) is FILM


def test_augmentation_is_light_and_never_flips():
    for index in range(20):
        view = augment(FILM, seed=0, view=1, image_index=index).astype(float)
        same = np.corrcoef(view.ravel(), FILM.ravel())[0, 1]
        flipped = np.corrcoef(view.ravel(), FILM[:, ::-1].ravel())[0, 1]
        assert same > 0.6
        assert same > flipped


def test_rotation_and_crop_are_those_of_pillow():
    film = Image.fromarray(FILM)
    turned = _rotated_crop(FILM, angle=np.radians(5), crop=1.0, shift=np.zeros(2))
    np.testing.assert_allclose(
        turned[20:-20, 20:-20], np.asarray(film.rotate(-5, Image.Resampling.BILINEAR))[20:-20, 20:-20], atol=2
    )
    cut = _rotated_crop(FILM, angle=0.0, crop=0.5, shift=np.array([0.25, -0.25]))
    expected = film.resize((96, 96), Image.Resampling.BILINEAR, box=(48, 0, 96, 48))
    np.testing.assert_allclose(cut[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2], atol=2)


def test_views_cycle_within_their_number_and_zero_means_live():
    views = [view_of(0, epoch, image, 4) for epoch in range(20) for image in range(20)]
    assert np.bincount(views, minlength=4) == pytest.approx([100] * 4, abs=30)
    assert len(np.bincount(views)) == 4
    assert [view_of(0, epoch, 7, 0) for epoch in range(5)] == list(range(5))
