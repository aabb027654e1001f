"""Tables with several rows per image, such as one row per box: joins the rows of an image."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainables.data.tables import Table


@dataclass
class Repeated:
    """The rows of one image: the place of the first one, and the different values of a column."""

    place: str
    values: set[str] = field(default_factory=set[str])


def join_rows(table: Table, *, image: str, column: str) -> dict[str, Repeated]:
    """Returns the rows of each image, by the value in the column `image`, in the order of the table."""
    joined: dict[str, Repeated] = {}
    for line, values in table.rows:
        row = joined.setdefault(values[image], Repeated(f"{table.path.name} line {line}"))
        row.values.add(values[column])
    return joined
