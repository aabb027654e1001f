import numpy as np
import pytest

from trainables.data.masks import describe_infection


def lungs() -> np.ndarray:
    mask = np.zeros((90, 80), bool)
    mask[:, 5:35] = mask[:, 45:75] = True
    return mask


def infection(*boxes: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((90, 80), bool)
    for box in boxes:
        mask[box] = True
    return mask


RIGHT, LEFT = slice(5, 35), slice(45, 75)  # of the patient, who faces the viewer
UPPER, LOWER, ALL = slice(0, 30), slice(60, 90), slice(0, 90)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(UPPER, RIGHT)], "the right lung, mostly in the upper zones, covering up to a quarter"),
        ([(LOWER, LEFT)], "the left lung, mostly in the lower zones, covering up to a quarter"),
        (
            [(LOWER, RIGHT), (LOWER, LEFT)],
            "both lungs alike, mostly in the lower zones, covering up to a half",
        ),
        (
            [(ALL, LEFT), (LOWER, RIGHT)],
            "both lungs, worse on the left, spread over all zones, covering more",
        ),
        ([(slice(35, 40), RIGHT)], "the right lung, mostly in the middle zones, covering a small part"),
    ],
)
def test_side_zone_and_extent_are_said(boxes: list[tuple[slice, slice]], expected: str) -> None:
    assert str(describe_infection(lungs(), infection(*boxes))).startswith(f"Opacities in {expected}")


def test_nothing_is_said_of_an_empty_mask_or_of_what_lies_outside_the_lungs() -> None:
    assert describe_infection(lungs(), infection()) is None
    assert describe_infection(lungs(), infection((ALL, slice(36, 44)))) is None
    assert describe_infection(np.zeros((90, 80), bool), infection((ALL, LEFT))) is None
