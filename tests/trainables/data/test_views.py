import pytest

from trainables.data.views import is_frontal, view_of


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("PA", "PA"), ("ap", "AP"), ("AP Supine", "AP"), ("AP_horizontal", "AP"), ("Frontal", "FRONTAL"),
        ("posteroanterior", "PA"), ("LL", "LATERAL"), ("Left Lateral", "LATERAL"), ("Lateral", "LATERAL"),
        ("L", "LATERAL"), ("oblique", "OBLIQUE"), ("", None), ("nan", None), ("N/A", None), (None, None),
    ],
)  # fmt: skip
def test_views_have_one_name(text, view):
    assert view_of(text) == view


def test_an_unknown_view_counts_as_frontal_and_another_view_does_not():
    assert [is_frontal(view) for view in ("PA", "AP Supine", "", None)] == [True] * 4
    assert [is_frontal(view) for view in ("LL", "RL", "Oblique", "Lateral")] == [False] * 4
