import numpy as np
from films import chests

from trainables.scoring.cells import area_means
from trainables.scoring.inversions import find_inversions

CLASSES = ["Normal"] * 20 + ["Pneumonia"] * 20


def cells(images: np.ndarray) -> np.ndarray:
    return area_means(images, 16, 16)


def test_negatives_are_found_and_no_other_image_is() -> None:
    images = chests(40)
    assert find_inversions(cells(images), CLASSES).images == ()
    images[[3, 25]] = 255 - images[[3, 25]]
    found = find_inversions(cells(images), CLASSES)
    assert found.images == (3, 25)
    assert found.classes == ()


def test_a_class_of_negatives_is_told_from_the_others() -> None:
    images = chests(40)
    images[20:] = 255 - images[20:]
    found = find_inversions(cells(images), CLASSES)
    assert found.classes == (("Normal", "Pneumonia"),)
    assert found.images == ()


def test_images_of_unknown_class_are_not_judged() -> None:
    images = chests(40)
    images[3] = 255 - images[3]
    assert find_inversions(cells(images), [None] * 20 + CLASSES[20:]).images == ()


def test_images_that_do_not_resemble_each_other_are_not_judged() -> None:
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (40, 5, 5)).repeat(12, axis=1).repeat(12, axis=2).astype(np.uint8)
    assert find_inversions(cells(patterns), CLASSES).images == ()


def test_a_blank_image_is_no_negative() -> None:
    images = chests(40)
    images[3] = 90
    assert find_inversions(cells(images), CLASSES).images == ()
