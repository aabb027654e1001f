import pytest

from trainables.data.values import age_of, sex_of


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("58", 58),
        ("058Y", 58),
        ("18M", 1.5),
        ("85 or more", 85),
        ("45yrs", 45),
        ("", None),
        ("999Y", None),
        ("?", None),
    ],
)
def test_ages(text, years):
    assert age_of(text) == years


@pytest.mark.parametrize(
    ("text", "sex"), [("female", "F"), ("femal", "F"), ("M", "M"), ("male ", "M"), ("O", None), ("", None)]
)
def test_sexes(text, sex):
    assert sex_of(text) == sex
