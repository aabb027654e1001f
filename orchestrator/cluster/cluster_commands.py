"""Parses the shell lines of a cluster file into simple commands, their variables and pip packages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND_FIELDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
PIP_FILES = ("-r", "--requirement", "-c", "--constraint")
PIP_VALUES = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "-t", "--target")


@dataclass(frozen=True)
class Command:
    """One simple command of a shell line, and the variables that are set for the command."""

    where: str
    words: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    def runs(self, *names: str) -> bool:
        """Says whether the command starts with these words. The folder of the program is ignored."""
        return tuple(Path(word).name for word in self.words[:1]) + self.words[1 : len(names)] == names

    def option(self, name: str) -> str | None:
        """Returns the value of `--name value` or `--name=value`; None = not given."""
        for word, following in zip(self.words, (*self.words[1:], ""), strict=True):
            if word == name:
                return following
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return None

    def is_in(self, name: str) -> bool:
        """Says whether the command is in this field of the file."""
        return self.where.startswith(f"{name}[")

    def pip_files(self) -> list[str]:
        """Returns the requirement and constraint files of `pip install`."""
        return [value for name in PIP_FILES if self._of_pip() and (value := self.option(name))]

    def pip_packages(self) -> list[str]:
        """Returns the packages of `pip install`."""
        packages: list[str] = []
        is_value = False
        for word in self._of_pip():
            if not is_value and not word.startswith(("-", ">", "2>", "&>")):
                packages.append(word)
            is_value = not is_value and word in (*PIP_FILES, *PIP_VALUES)
        return packages

    def _of_pip(self) -> tuple[str, ...]:
        for number, (word, following) in enumerate(zip(self.words, self.words[1:], strict=False)):
            if re.fullmatch(r"pip[0-9.]*", Path(word).name) and following == "install":
                return self.words[number + 2 :]
        return ()


def lines_of(prepared: Mapping[str, Any], name: str) -> list[str]:
    """Returns the lines of a field, without the `setup_commands` that Ray puts before them."""
    lines: list[str] = prepared.get(name) or []
    shared: list[str] = prepared.get("setup_commands") or []
    is_joined = name in ("head_setup_commands", "worker_setup_commands") and lines[: len(shared)] == shared
    return lines[len(shared) :] if is_joined else lines


def commands_of(prepared: Mapping[str, Any], name: str) -> Iterator[Command]:
    """Yields the simple commands of a field. Handles `A=b c`, `export A=b; c` and `a && b`."""
    for number, line in enumerate(lines_of(prepared, name)):
        exported: dict[str, str] = {}
        for part in re.split(r"&&|\|\||[;|]", line):
            words = _words(part)
            while words and words[0] in ("sudo", "{", "(", "then", "do"):
                words = words[1:]
            variables = dict(exported)
            if words[:1] == ["export"]:
                exported |= dict(_assignment(word) for word in words[1:] if _is_assignment(word))
                continue
            while words and _is_assignment(words[0]):
                variables |= [_assignment(words[0])]
                words = words[1:]
            if words:
                yield Command(f"{name}[{number}]", tuple(words), variables)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # the quotation mark ends in another part
        return text.split()


def _is_assignment(word: str) -> bool:
    return re.match(r"[A-Za-z_][A-Za-z0-9_]*=", word) is not None


def _assignment(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value
