from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plain_findings import FINDINGS, tied_findings

from trainables.errors import DataError
from trainables.scoring.bootstrap import Bootstrap
from trainables.scoring.finding_table import SCHEMA, finding_rows, read_findings, write_findings

NAMED = {"split": "val", "system": "probe_joint"}


@pytest.fixture
def rows() -> list[dict]:
    scores, labels, patients = tied_findings()
    labels[:, 1] = np.minimum(labels[:, 1], 0)
    draws = Bootstrap(labels, patients, num_draws=100).draws(scores)
    return finding_rows(labels, FINDINGS, draws.by_finding, NAMED)


def test_a_row_has_the_counts_and_the_intervals_of_its_finding(rows) -> None:
    scores, labels, patients = tied_findings()
    assert [row["finding"] for row in rows] == list(FINDINGS)
    assert list(rows[0]) == SCHEMA.names
    one = rows[0]
    assert [one["num_positive"], one["num_negative"], one["num_unknown"]] == [
        (labels[:, 0] == value).sum() for value in (1, 0, -1)
    ]
    alone = Bootstrap(labels[:, [0, 3]], patients, num_draws=100).intervals(scores[:, [0, 3]])
    for metric, average in {"auroc": "macro_auroc", "average_precision": "macro_ap", "ece": "ece"}.items():
        found = [one[metric], one[f"{metric}_low"], one[f"{metric}_high"]]
        assert found == pytest.approx(list(alone[average])), metric


def test_the_undefined_is_null_with_its_counts(rows, tmp_path: Path) -> None:
    write_findings(tmp_path / "results" / "findings.parquet", rows)
    read = read_findings(tmp_path / "results" / "findings.parquet")
    assert read == rows
    absent = read[1]
    assert absent["num_positive"] == 0
    assert absent["num_negative"] > 100
    assert all(absent[name] is None for name in SCHEMA.names[6:])
    assert all(row["auroc"] is not None for row in read if row is not absent)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["findings.parquet"]


def test_classes_that_exclude_each_other_have_no_rows() -> None:
    assert finding_rows(np.zeros(3, np.int64), ("A", "B"), {}, NAMED) == []


def test_a_system_without_calibration_has_rows_without_it() -> None:
    scores, labels, patients = tied_findings()
    draws = Bootstrap(labels, patients, num_draws=20).draws(scores, with_ece=False)
    row = finding_rows(labels, FINDINGS, draws.by_finding, NAMED)[0]
    assert row["ece"] is None
    assert row["brier"] is not None


@pytest.mark.parametrize("spoil", ["missing", "text", "other"])
def test_what_is_no_table_of_findings_is_refused(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "findings.parquet"
    if spoil == "text":
        path.write_text("split,system")
    if spoil == "other":
        pq.write_table(pa.table({"split": ["val"]}), path)
    with pytest.raises(DataError, match="no readable table of findings"):
        read_findings(path)
