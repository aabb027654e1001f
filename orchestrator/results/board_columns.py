"""The columns of the two tables of a leaderboard, for the terminal and the HTML page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.results.arms import Estimate
from orchestrator.results.board import (
    Control,
    Difference,
    FindingColumn,
    FindingRow,
    Leaderboard,
    Row,
)
from orchestrator.search.constraints import number
from trainables.config import Task
from trainables.scoring.metric_names import NUM_TRAINABLE, SECONDS, metric_title, title

LEVEL = 0.05  # a difference with a lower corrected p-value counts as different from 0
WIDE, WIDEST = 96, 120  # widths of a terminal, in characters, that show costs and all columns
COST_TITLES = {NUM_TRAINABLE: "weights", SECONDS: "s"}


@dataclass(frozen=True)
class Column:
    """One column: its heading, and functions that return the text of a row or a control."""

    heading: str
    of_row: Callable[[Row], str]
    of_control: Callable[[Control], str] = lambda control: ""
    min_width: int = 0  # smallest width of a terminal that shows this column
    is_short: bool = False  # a terminal narrower than `WIDE` shows this column without intervals

    @property
    def is_number(self) -> bool:
        """True if the column is aligned to the right."""
        return self.heading in COST_TITLES.values()


SYSTEM = Column("system", lambda row: title(row.system), lambda control: "control")
ON_VAL: dict[Task, Column] = {
    "multiclass": Column(
        "accuracy", lambda row: cell(row.accuracy), lambda control: cell(control.accuracy), is_short=True
    ),
    "multilabel": Column(
        metric_title("macro_ap"),
        lambda row: cell(row.average_precision),
        lambda control: cell(control.average_precision),
        is_short=True,
    ),
}
"""The column after the one that ranks, by task. Accuracy says nothing about findings: most are rare."""
ON_TEST: dict[Task, list[Column]] = {
    "multiclass": [
        Column("accuracy", lambda row: cell(row.test_accuracy), lambda control: cell(control.test_accuracy)),
        Column("AUROC", lambda row: cell(row.test_auroc), lambda control: cell(control.test_auroc), WIDE),
    ],
    "multilabel": [
        Column("AUROC", lambda row: cell(row.test_auroc), lambda control: cell(control.test_auroc)),
        Column(
            metric_title("macro_ap"),
            lambda row: cell(row.test_average_precision),
            lambda control: cell(control.test_average_precision),
            WIDE,
        ),
    ],
}
"""The scores of the test table, by task. Differences are of the first one."""


def val_columns(board: Leaderboard) -> list[Column]:
    """Returns the columns of the ranked table after rank and trial. The second one gives the rank."""
    columns = [
        SYSTEM,
        Column(metric_title(board.metric), score, lambda control: cell(control.objective)),
    ]
    columns += [column for column in [ON_VAL[board.task]] if column.heading != columns[1].heading]
    second = second_title(board)
    if second is not None:
        columns.append(Column(second, lambda row: second_value(second, row)))
    costs = [Column("weights", lambda row: count(row.num_trainable), min_width=WIDE)]
    costs += [Column("s", seconds, min_width=WIDE)]
    columns += [column for column in costs if column.heading != second]
    return [*columns, Column("trains", trains, min_width=WIDEST)]


def opened_columns(board: Leaderboard) -> list[Column]:
    """Returns the columns of the test table, without rank and trial."""
    columns = [
        SYSTEM,
        *ON_TEST[board.task],
        Column("over frozen", lambda row: "reference" if row.is_reference else difference(row.over_frozen)),
        Column("error cut", lambda row: cell(row.error_cut), min_width=WIDEST),
    ]
    if has_several_frozen(board):
        columns.append(Column("over itself", lambda row: difference(row.over_self), min_width=WIDEST))
    if any(row.over_first for row in board.rows):
        columns.append(Column("over #1", lambda row: difference(row.over_first), min_width=WIDEST))
    return columns


def finding_heading(column: FindingColumn) -> str:
    """Returns the heading of a system in the table of findings, such as `#1 probe joint`."""
    return title(column.system) if column.rank is None else f"#{column.rank} {title(column.system)}"


def finding_cells(row: FindingRow) -> list[str]:
    """Returns the texts of a row of the table of findings: its counts, then an AUROC for each system.

    An AUROC is `–` if no image is positive or none is negative. The mark `polarity?` says that the prompts
    of a zero-shot system are probably reversed.
    """
    known = f"{row.num_positive:,} / {row.num_positive + row.num_negative:,}"
    unknown = f" +{row.num_unknown:,} ?" if row.num_unknown else ""
    aurocs = [
        (cell(auroc) or "–") + (" polarity?" if is_doubtful else "")
        for auroc, is_doubtful in zip(row.aurocs, row.is_reversed, strict=True)
    ]
    return [known + unknown, *aurocs]


def has_several_frozen(board: Leaderboard) -> bool:
    """Returns whether the strongest frozen probe may use another encoder than a row does."""
    frozen = {row.arm_key for row in board.rows if row.method == "none"}
    return len(frozen) > 1 and any(row.over_self for row in board.rows)


def shown_name(board: Leaderboard, row: Row) -> str:
    """Returns a row's name with the numbers of its violated constraints, such as `rank=32 ✗1`."""
    places = list(board.constraints)
    return " ".join([row.name, *(f"✗{1 + places.index(breach.metric)}" for breach in row.breaches)])


def score(row: Row) -> str:
    """Returns the value that ranks a row, with the marks † (stopped early) and ≈ (may equal the first)."""
    return cell(row.objective) + ("†" if row.stopped_early else "") + ("≈" if row.differs is False else "")


def difference(found: Difference | None) -> str:
    """Returns a difference such as `+.122 [.08 .16]`, with the mark ≈ if it may be 0."""
    return cell(found, sign="+") + ("≈" if is_uncertain(found) else "")


def is_uncertain(found: Difference | None) -> bool:
    """Returns whether a difference may be 0: its corrected p-value is not below `LEVEL`."""
    return found is not None and found.p is not None and found.p >= LEVEL


def second_title(board: Leaderboard) -> str | None:
    """Returns the heading of the second objective, or None if the sweep has no second objective."""
    key = board.also_minimise
    return None if key is None else COST_TITLES.get(key) or " ".join(key.split("/")[1:]).replace("_", " ")


def second_value(heading: str, row: Row) -> str:
    """Returns the value of the second objective, with the mark ◆ if the row is on the Pareto front."""
    if row.second is None:
        return ""
    value = count(round(row.second)) if heading == "weights" else number(row.second)
    return value + ("↺" if heading == "s" and row.is_reused else "") + (" ◆" if row.is_on_front else "")


def seconds(row: Row) -> str:
    """Returns the seconds of all trials of a row, with the mark ↺ if a part of the work was done earlier."""
    return f"{row.seconds:.0f}" + ("↺" if row.is_reused else "")


def trains(row: Row) -> str:
    """Returns the trained part: `nothing`, `projection`, `r8 all + proj`, `all of resnet18`."""
    lora = f"r{row.lora_rank} {row.lora_modules}"
    words = {"none": "nothing", "lora": lora, "lora+projection": f"{lora} + proj", "full": "every weight"}
    words["baseline"] = f"all of {row.classifier}"
    return words.get(row.method, row.method)


def cell(estimate: Estimate | None, *, sign: str = "") -> str:
    """Returns an estimate such as `.841 [.80 .88]`, or an empty text for None."""
    if estimate is None:
        return ""
    value = decimals(estimate.value, 3, sign)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{decimals(estimate.low, 2)} {decimals(estimate.high, 2)}]"


def decimals(value: float, digits: int, sign: str = "") -> str:
    """Returns a fraction without its leading zero, as the field prints scores."""
    return re.sub(r"\b0\.", ".", f"{value:{sign}.{digits}f}")


def count(number: int | None) -> str:
    """Returns a number of weights in about three characters."""
    if number is None:
        return ""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
