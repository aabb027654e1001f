"""The table of findings: counts of labels and the metrics of each finding, with 95 % intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.errors import DataError
from trainables.scoring.bootstrap import Draws, intervals
from trainables.scoring.finding_metrics import num_images
from trainables.scoring.metric_names import FINDING_METRICS, interval_keys

FILE = "findings.parquet"
COUNTS = ("num_positive", "num_negative", "num_unknown")
VALUES = tuple(key for metric in FINDING_METRICS for key in (metric, *interval_keys(metric)))
SCHEMA = pa.schema(
    dict.fromkeys(("split", "system", "finding"), pa.string())
    | dict.fromkeys(COUNTS, pa.int64())
    | dict.fromkeys(VALUES, pa.float64())
)
"""One row for each split, system and finding. An undefined value is null."""


def finding_rows(
    labels: np.ndarray, names: Sequence[str], by_finding: Draws, named: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """Returns a row for each finding: its counts of labels, and its metrics with intervals.

    An undefined value is None. There are no rows if there are no draws of findings.

    Args:
        labels: 1, 0 or -1 (unknown), int8 [N, K].
        names: the K findings.
        by_finding: metric → draws [1 + R, K], see `bootstrap.Bootstrap.draws`.
        named: what each row starts with, such as its split and system.
    """
    if not by_finding:
        return []
    counts = num_images(labels).tolist()
    return [
        {**named, "finding": name, **dict(zip(COUNTS, counts[k], strict=True)), **_values(by_finding, k)}
        for k, name in enumerate(names)
    ]


def _values(by_finding: Draws, k: int) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys(VALUES)
    drawn = {metric: by_finding[metric][:, k] for metric in FINDING_METRICS if metric in by_finding}
    for metric, interval in intervals(drawn).items():
        found = (None if np.isnan(value) else float(value) for value in interval)
        values |= dict(zip((metric, *interval_keys(metric)), found, strict=True))
    return values


def write_findings(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with split and system atomically, with the columns of `SCHEMA`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), aside)
    aside.replace(path)


def read_findings(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of `write_findings`.

    Raises:
        DataError: the file is missing, or is not a table of findings.
    """
    try:
        return pq.read_table(path, columns=SCHEMA.names).cast(SCHEMA).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: no readable table of findings ({error}); run the trial again") from error
