"""The list of images that a user excludes, such as those that `data check --write-bad` found unreadable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trainables.data.identifiers import text_key
from trainables.data.problems import refuse
from trainables.errors import DataError
from trainables.places import found

MAX_BYTES = 64 * 2**20


@dataclass
class Excluded:
    """The paths in an exclude list, relative to `data.root`, and which of them were met."""

    name: str = ""
    paths: dict[str, str] = field(default_factory=dict[str, str])  # comparable path → line in the file
    met: set[str] = field(default_factory=set[str])

    def has(self, path: str) -> bool:
        """Returns whether an image is excluded, and remembers that the image was met."""
        key = text_key(path)
        if key in self.paths:
            self.met.add(key)
            return True
        return False

    def below(self, folder: str) -> Excluded:
        """Returns the paths below a folder, relative to it."""
        prefix = f"{text_key(folder)}/"
        inside = {p.removeprefix(prefix): place for p, place in self.paths.items() if p.startswith(prefix)}
        return Excluded(self.name, inside)

    def check_all_used(self, dataset: str) -> None:
        """Raises DataError for a path that names no image of the data set: it may be misspelt."""
        unmet = [f"{place}: '{path}'" for path, place in self.paths.items() if path not in self.met]
        refuse(unmet, about=f"data.exclude: lines of {self.name} that name no image of {dataset}")

    def notes(self) -> list[str]:
        """Returns the line that tells how many images were excluded."""
        return [f"excluded: {len(self.met):,} images listed in an exclude file"] if self.met else []


def read_excluded(path: Path | None, *, root: Path) -> Excluded:
    """Returns the exclude list in a file: one path per line; `#` before a blank starts a comment.

    Paths are relative to `root`, the real path of `data.root`, or absolute.
    """
    if path is None:
        return Excluded()
    place = found(path)
    try:
        if place.stat().st_size > MAX_BYTES:
            raise DataError(f"data.exclude: {path} is larger than {MAX_BYTES:,} bytes")
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"data.exclude: {path} cannot be read ({reason}); give a text file with one path per line"
        ) from error
    listed = {
        text_key(PurePosixPath(name.removeprefix(f"{root}/")).as_posix()): f"line {number}"
        for number, line in enumerate(lines, start=1)
        if (name := line.partition(" # ")[0].strip()) and not name.startswith("#")
    }
    return Excluded(place.name, listed)
