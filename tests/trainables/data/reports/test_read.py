"""Captions from the reports of a data set: sections, draws, counts, and no caption for val and test."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_table import write_report_table

from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.data.records import ImageRecord
from trainables.data.reports.read import read_captions, retrieval_text
from trainables.data.text import captions_for
from trainables.errors import DataError

BOTH = "FINDINGS: Clear lungs. Heart normal. IMPRESSION: No acute disease. Stable."


def record(i: int, text: str | None, *, patient: str | None = None) -> ImageRecord:
    return ImageRecord(f"{i}.png", patient or f"p{i}", "train", {"A": 1}, report_text=text)


def config(**changes: object) -> DataConfig:
    return DataConfig.model_validate({"captions": "report", **changes})


def sentences(text: str, **changes: object) -> tuple[str, ...]:
    return read_captions([record(0, text)], config(**changes))[0].sentences["0.png"]


def test_the_sections_are_chosen() -> None:
    assert sentences(BOTH) == ("Clear lungs.", "Heart normal.", "No acute disease.")
    assert sentences(BOTH, report_sections="findings") == ("Clear lungs.", "Heart normal.")
    assert sentences(BOTH, report_sections="impression") == ("No acute disease.",)
    assert sentences(BOTH, report_sections="impression", drop_comparisons=False)[-1] == "Stable."


@pytest.mark.parametrize("wanted", ["findings", "impression", "both"])
@pytest.mark.parametrize(
    "text",
    [
        *("FINDINGS: Clear lungs.", "IMPRESSION: Clear lungs.", "Clear lungs."),
        *("FINDINGS:\nIMPRESSION: Clear lungs.", "FINDINGS: ___. IMPRESSION: Clear lungs."),
        "FINDINGS: Unchanged.\nIMPRESSION: Clear lungs",
    ],
)
def test_a_section_without_a_sentence_falls_back(text: str, wanted: str) -> None:
    assert sentences(text, report_sections=wanted) == ("Clear lungs.",)


def test_what_is_missing_is_counted_without_text() -> None:
    records = [
        *(record(0, BOTH), record(1, "IMPRESSION: Normal."), record(2, "Clear."), record(3, None)),
        *(record(4, "FINDINGS: ___"), record(5, "Clear.", patient="p2"), record(6, BOTH + " x" * 20_000)),
        record(7, "IMPRESSION: Normal."),
    ]
    captions, note = read_captions(records, config(report_sections="findings"))
    assert sorted(captions.sentences) == ["0.png", "1.png", "2.png", "5.png", "6.png", "7.png"]
    assert note.split("; ") == [
        "captions from reports: 6 of 8 train images",
        "2 have captions of kind 'finding' (1 have no report)",
        "no FINDINGS in 4 (57%) reports",
        "no IMPRESSION in 3 (43%) reports",
        "neither in 2 (29%) reports",
        "another section was read in 4",
        "4 (67%) images share their text with another patient",
        "1 are longer than 20,000 characters, and the rest is not read",
    ]


def test_no_report_at_all_is_refused_except_where_the_control_removes_them() -> None:
    with pytest.raises(DataError, match="1 of 2 train images have a report, and none has a sentence"):
        read_captions([record(0, "___"), record(1, None)], config())
    assert not read_captions([record(0, None)], config(permute_labels=True))[0].sentences


def test_draws_take_sentences_in_order_and_depend_on_epoch_and_text() -> None:
    text = "FINDINGS: Clear lungs. Heart normal. No effusion. Bones intact."
    captions, _ = read_captions([record(0, text), record(1, text), record(2, f"{text} Tube.")], config())
    of_first = [captions.caption("0.png", seed=0, epoch=epoch) for epoch in range(60)]
    assert of_first == [captions.caption("1.png", seed=0, epoch=epoch) for epoch in range(60)]
    assert of_first != [captions.caption("0.png", seed=1, epoch=epoch) for epoch in range(60)]
    whole = captions.sentences["0.png"]
    numbers = set()
    for caption in of_first:
        assert caption is not None
        said = [sentence for sentence in whole if sentence in caption]
        assert caption == " ".join(said)
        numbers.add(len(said))
    assert numbers == {1, 2, 3}
    everything, _ = read_captions([record(0, text)], config(report_sentences=None))
    assert everything.caption("0.png", seed=0, epoch=0) == " ".join(whole)
    assert everything.caption("9.png", seed=0, epoch=0) is None


def test_all_arms_search_the_same_texts() -> None:
    assert retrieval_text(BOTH) == "Clear lungs. Heart normal. No acute disease."
    assert retrieval_text("FINDINGS: ___") is None
    assert retrieval_text(None) is None


def test_captions_of_train_alone_come_from_reports(tmp_path: Path) -> None:
    write_report_table(tmp_path, lambda i: f"FINDINGS: Sign {i} is seen." if i else "")
    dataset = load_dataset(config(dataset="manifest", root=tmp_path))
    train, val, test = (dataset.indices(split) for split in ("train", "val", "test"))
    drawn = captions_for(dataset, train, kind="report", seed=0, epoch=0)
    of_image = dict(zip([dataset.records[i].image_id for i in train], drawn, strict=True))
    assert of_image["3.png"] == "Sign 3 is seen."
    assert of_image["0.png"] in dataset.words.of("well").findings
    assert set(dataset.reports.sentences) == {f"{i}.png" for i in range(3, 60, 3)}
    for held_out in (val, test):
        with pytest.raises(ValueError, match="would reveal its label"):
            captions_for(dataset, held_out, kind="report", seed=0, epoch=0)
    assert "captions from reports: 19 of 20 train images" in "; ".join(dataset.notes)
    assert not load_dataset(config(dataset="manifest", root=tmp_path, captions="finding")).reports.sentences


def test_another_report_is_another_data_set(tmp_path: Path) -> None:
    write_report_table(tmp_path, lambda i: f"FINDINGS: Sign {i} is seen.")
    before = load_dataset(config(dataset="manifest", root=tmp_path)).fingerprint
    other = tmp_path / "other.csv"
    other.write_text((tmp_path / "manifest.csv").read_text().replace("Sign 3 is", "Sign 3 was"))
    assert load_dataset(config(dataset="manifest", root=tmp_path, manifest="other.csv")).fingerprint != before


def test_real_case_descriptions(reports_mini: DataConfig) -> None:
    dataset = load_dataset(reports_mini)
    train = dataset.indices("train")
    assert len(dataset.reports.sentences) >= 0.9 * len(train)  # the others only compare
    captions = captions_for(dataset, train, kind="report", seed=0, epoch=0)
    assert len(set(captions)) > len(train) / 2
    assert all(caption.isprintable() for caption in captions)
    assert not any("Presentation:" in caption or "Discussion:" in caption for caption in captions)
