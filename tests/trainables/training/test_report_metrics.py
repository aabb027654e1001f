"""What a trial measures of reports: the real default encoder on a small table, and where it stays silent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_table import write_report_table

from trainables.config import from_flat
from trainables.context import LocalContext
from trainables.training.report_metrics import cut_fraction, report_metrics
from trainables.training.trial_setup import TrialSetup, set_up_trial
from trainables.trials.adapt import adapt

SMALL = {
    "data.dataset": "manifest",
    "data.captions": "report",
    "encoder.image_size": 32,
    "num_epochs": 2,
    "global_batch_size": 10,
    "data.num_views": 1,
}
LONG = "FINDINGS: " + " ".join(f"Sign {i} of the lung is seen on the left." for i in range(60))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_report_table(folder, lambda i: LONG if i == 0 else f"FINDINGS: The sign {i % 8} is seen.")
    return folder


def set_up(root: Path, store: Path, **changes: object) -> TrialSetup:
    config = from_flat(SMALL | {"data.root": str(root)} | changes)
    return set_up_trial(config, LocalContext(workdir=store, store=store))


def test_a_trial_on_reports_measures_retrieval_and_cut_texts(
    root: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = from_flat(SMALL | {"data.root": str(root), "data.report_sentences": None})
    metrics = adapt(config, LocalContext(workdir=tmp_path, store=store))
    assert metrics["train/captions/cut_fraction"] == pytest.approx(1 / 20)
    assert "5 % of the captions are longer" in caplog.text
    assert metrics["val/reports/num_texts"] == 8
    assert metrics["val/reports/cut_fraction"] == 0
    found = [
        metrics[f"val/{way}/recall_at_{k}"]
        for way in ("image_to_report", "report_to_image")
        for k in (1, 5, 10)
    ]
    assert found[0] <= found[1] <= found[2] == 1  # 8 texts
    assert found[3] <= found[4] <= found[5]
    assert 0 <= metrics["val/image_to_report/recall_at_1_low"] <= found[0]


def test_perfect_embeddings_find_every_report(root: Path, store: Path) -> None:
    setup = set_up(root, store)
    val = setup.dataset.indices("val")
    table = setup.embedding_table(val)
    texts = [str(setup.dataset.records[i].report_text).removeprefix("FINDINGS: ") for i in val]
    table = replace(table, joint=setup.embed_texts(texts).cpu().numpy())
    metrics = report_metrics(setup, table, from_flat(SMALL))
    assert metrics["val/image_to_report/recall_at_1"] == metrics["val/report_to_image/recall_at_1"] == 1


def test_without_reports_there_is_nothing_to_measure(tmp_path: Path, store: Path) -> None:
    write_report_table(tmp_path, lambda i: "")
    config = from_flat(SMALL | {"data.root": str(tmp_path), "data.captions": "finding"})
    setup = set_up(tmp_path, store, **{"data.captions": "finding"})
    table = setup.embedding_table(np.arange(len(setup.dataset.records)))
    assert report_metrics(setup, table, config) == {}


def test_a_text_is_cut_only_if_its_end_is_not_read(root: Path, store: Path) -> None:
    encoder = set_up(root, store).encoder
    number = 1
    while len(encoder.tokenize(["lung " * number]).input_ids[0]) == number + 2:  # [CLS] … [SEP]
        number += 1
    fits = " ".join(["lung"] * (number - 1))
    assert cut_fraction(encoder, ["Normal.", "Clear lungs.", fits]) == 0
    assert cut_fraction(encoder, ["Normal.", f"{fits} {fits}"]) == 0.5
