"""What a command printed on standard error, without the lines that say what it is doing."""

from __future__ import annotations


def without_progress(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.endswith(" …\n"))
