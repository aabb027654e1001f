import pytest

from trainables.data.identifiers import label_key, patient_key, split_named, text_key


@pytest.mark.parametrize(
    "spellings",
    [
        ("3", "3.0", "03", " 3 ", "3.00"),
        ("P1", "p1", " P1"),
        ("Jos\u00e9", "Jose\u0301", "JOSÉ"),
        ("12000000000", "1.2e+10", "1.2E+10"),
        ("7", "7,0", "7,00", "'007"),  # as a spreadsheet writes numbers, and numbers that are text
        ("1e+999999999", "1E+999999999"),
    ],
)
def test_equal_patients_have_equal_keys(spellings):
    assert len({patient_key(text) for text in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3", "30"),
        ("3.5", "35"),
        ("p1", "p01"),
        ("12e5", "1200000"),
        ("a b", "ab"),
        ("1,000", "1"),
        ("9" * 30 + "1", "9" * 30 + "2"),
    ],
)
def test_other_patients_have_other_keys(one, other):
    assert patient_key(one) != patient_key(other)


def test_labels_differ_in_letters_and_digits_alone():
    assert label_key("Non-COVID") == label_key("non covid") == label_key("NON_COVID ")
    assert label_key("1.0") == label_key("1")
    assert label_key("COVID-19") != label_key("COVID-20")
    assert label_key("+") != label_key("-")


def test_file_names_keep_their_marks():
    assert text_key("A-1.PNG") == text_key("a-1.png") != text_key("a1.png")


@pytest.mark.parametrize(
    ("name", "split"), [("Valid", "val"), ("validate", "val"), ("dev ", "val"), ("TRAINING", "train")]
)
def test_splits_are_known_by_their_usual_names(name, split):
    assert split_named(name) == split


def test_another_name_is_no_split():
    assert split_named("later") is None
