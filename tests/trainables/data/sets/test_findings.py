"""Several findings per image: uncertain and blank labels, `No Finding`, and names of findings."""

import pytest

from trainables.config import DataConfig
from trainables.data.records import ImageRecord
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.findings import find_findings
from trainables.errors import DataError

NAMES = ("Edema", "Mass", "Support Devices")


def described(**options):
    return SetDescription("made", "", lambda _: [], task="multilabel", **options)


CHEST = described(findings={name: name for name in NAMES})


def resolve(labels, description=CHEST, **options):
    """Returns the labels as (finding, …, No Finding), and the notes."""
    row = Row("a.png", labels=labels)
    findings = find_findings(description, DataConfig(**options), [row])
    record = ImageRecord("a", "p", "train", findings.labels_of(row))
    assert tuple(record.labels) == findings.names
    return tuple(record.labels.values()), findings.notes([record])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"Edema": "1.0", "Mass": "0.0", "Support Devices": ""}, (1, 0, -1, 0)),
        ({"Edema": 0, "Mass": 0, "Support Devices": 1}, (0, 0, 1, 1)),  # devices are no finding of the chest
        ({"Edema": 0, "Mass": None}, (0, -1, -1, -1)),
        ({"Support Devices": 1}, (-1, -1, 1, -1)),
        ({"No Finding": 1}, (0, 0, -1, 1)),
        ({"No Finding": "1.0", "Support Devices": "1.0"}, (0, 0, 1, 1)),
        ({"No Finding": 0, "Edema": 0, "Mass": 0}, (0, 0, -1, 0)),  # something that has no column
        ({"no finding": 1, "EDEMA": 0}, (0, 0, -1, 1)),
        ({"Edema": "-1.0", "Mass": 0}, (-1, 0, -1, -1)),
        ({}, (-1, -1, -1, -1)),
    ],
)
def test_no_finding_is_stated_or_derived_and_blank_is_not_negative(labels, expected):
    assert resolve(labels)[0] == expected


@pytest.mark.parametrize(
    ("uncertain", "in_train", "notes"),
    [
        ("ignore", None, ["labels: 2 uncertain (-1) ignored"]),
        ("ones", (1, 1, 0, 0), ["labels: 2 uncertain (-1) read as 1 in train, and ignored in val and test"]),
        ("zeros", (0, 0, 0, 1), ["labels: 2 uncertain (-1) read as 0 in train, and ignored in val and test"]),
        (
            {"Edema": "ones"},
            (1, -1, 0, 0),
            [
                "labels: 1 uncertain (-1) ignored",
                "labels: 1 uncertain (-1) read as 1 in train, and ignored in val and test",
            ],
        ),
    ],
)
def test_uncertain_labels_are_trained_on_as_the_setting_says_and_counted(uncertain, in_train, notes):
    labels = {"Edema": -1, "Mass": "-1", "Support Devices": 0}
    assert resolve(labels, uncertain=uncertain) == ((-1, -1, 0, -1), notes)
    row = Row("a.png", labels=labels)
    found = find_findings(CHEST, DataConfig(uncertain=uncertain), [row]).train_labels_of(row)
    assert (found and tuple(found.values())) == in_train


def test_blank_labels_are_read_as_the_setting_says_and_counted():
    assert resolve({"Edema": 1})[1] == ["labels: 2 blank ignored"]
    assert resolve({"Edema": 1}, blank="zeros") == ((1, 0, 0, 0), ["labels: 2 blank read as 0"])
    assert resolve({"No Finding": 1})[1] == [
        "labels: 2 blank read as 0, because the image has no finding",
        "labels: 1 blank ignored",
    ]


def test_a_finding_beside_no_finding_counts_and_is_told():
    labels, notes = resolve({"No Finding": 1, "Mass": 1})
    assert labels == (-1, 1, -1, 0)
    assert notes[-1] == "labels: 1 images have both 'No Finding' and a finding, which counts"


def test_equal_rows_share_one_mapping():
    rows = [Row(f"{i}.png", labels={"Edema": 1, "Mass": 0}) for i in range(2)]
    findings = find_findings(CHEST, DataConfig(), rows)
    assert findings.labels_of(rows[0]) is findings.labels_of(rows[1])


def test_findings_that_are_joined_have_the_strongest_label():
    joined = {"rename": {"Edema": "Opacity", "Mass": "Opacity"}}
    for edema, mass, expected in [(1, -1, 1), (-1, 0, -1), (0, None, -1), (0, 0, 0), (None, -1, -1)]:
        found, _ = resolve({"Edema": edema, "Mass": mass}, **joined)
        assert found[0] == expected
    assert len(found) == 3


def test_findings_of_a_set_that_names_none_are_its_labels():
    free = described()
    labels = {"Nodule": 1, "Edema": 0, "Normal": 0}
    assert resolve(labels, free, rename={"Normal": "Usual"})[0] == (1, 0, 0, 0)
    assert resolve(labels, free, rename={"Normal": "No Finding"})[0] == (1, 0, 0)
    with pytest.raises(DataError, match=r"'Edema' \(1\) and 'edema' \(1\): one class"):
        resolve({"Edema": 1, "edema": 0}, free)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"uncertain": {"Edemaa": "ones"}},
            "data.uncertain: 'Edemaa' is no finding of made; did you mean",
        ),
        ({"uncertain": {"No Finding": "ones"}}, r"'No Finding' is no finding of made \(known: Edema, Mass"),
        ({"rename": {"Edemaa": "X"}}, "no image has the label 'Edemaa'; did you mean 'Edema'"),
        ({"rename": {"Edema": " "}}, "the new name of 'Edema' is blank"),
    ],
)
def test_settings_that_name_no_finding_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        resolve({"Edema": 1}, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"Edemaa": 1}, "label 'Edemaa' is no finding; did you mean 'Edema'"),
        ({"Edema": "2"}, "label 'Edema': '2' is not 1, 0, -1 or blank"),
    ],
)
def test_labels_that_say_nothing_are_refused(labels, message):
    row = Row("a.png", labels=labels)
    with pytest.raises(ValueError, match=message):
        find_findings(CHEST, DataConfig(), [row]).labels_of(row)
