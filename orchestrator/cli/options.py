"""What several commands share: their options, their consoles, where a search space is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

from orchestrator.storage.paths import PROJECT
from orchestrator.storage.uri import STORAGE_VARIABLE
from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError

SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a field by its dotted name; may be repeated."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
WorkersOption: TypeAlias = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Processes that share one trial's batch.")
]

AddressOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Run on the Ray cluster there, or auto; none = RAY_ADDRESS, else a Ray of our own.",
    ),
]

StorageOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar=STORAGE_VARIABLE,
        metavar="URI",
        help="Keep the sweep there too: a folder, s3://BUCKET/FOLDER or gs://…; nodes exchange files there.",
    ),
]

SEARCH_SPACES = "search_spaces"

out = Console()
err = Console(stderr=True)


def print_json(value: Any) -> None:
    """Prints JSON alone on standard output."""
    typer.echo(json.dumps(value, indent=1))


def find_space(name: str) -> Path:
    """Returns the file of a search space: a path, or the bare name of a file in `search_spaces/`.

    Raises:
        ConfigError: neither; offers the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    folders = [Path(SEARCH_SPACES), PROJECT / SEARCH_SPACES]
    known = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}
    if name in known:
        return known[name]
    hint = did_you_mean(Path(name).stem, known) or f" (known: {', '.join(sorted(known)) or 'none'})"
    raise ConfigError(f"search space '{name}': no such file, nor {SEARCH_SPACES}/{name}.yaml{hint}")
