"""What commands share: options, output on the terminal, and where a search space is found."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console

from orchestrator.storage.paths import PROJECT
from orchestrator.storage.uri import STORAGE_VARIABLE
from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from trainables.config import PreprocessingSpec
    from trainables.data.cache import Decoded
    from trainables.data.records import Dataset

SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set one field, such as lora.rank=8. Repeat it for more fields."
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
WorkersOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Number of processes that share the batch of one trial. Default: execution.num_workers, 1.",
    ),
]
SweepArgument: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[SWEEP]", help="Name of the sweep. Default: the most recent one.")
]
AddressOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Head of the Ray cluster to run on, or 'auto'. Default: RAY_ADDRESS, else only this machine.",
    ),
]
StorageOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar=STORAGE_VARIABLE,
        metavar="URI",
        help="Also keep the sweep here: a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER. "
        "The nodes of a cluster exchange their files through it.",
    ),
]

SEARCH_SPACES = "search_spaces"

out = Console()
err = Console(stderr=True)


def print_line(text: str, console: Console = out, style: str | None = None) -> None:
    """Prints one line as it is: not wrapped, not coloured by its content."""
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def print_json(value: Any) -> None:
    """Prints JSON alone on standard output."""
    typer.echo(json.dumps(value, indent=1))


@contextmanager
def doing(what: str) -> Generator[None]:
    """Shows on standard error what takes time now: a moving line on a terminal, else a plain one."""
    if not err.is_terminal:
        print_line(f"{what} …", err)
        yield
        return
    with err.status(f"{what} …"):
        yield


def decode_with_bar(dataset: Dataset, preprocessing: PreprocessingSpec) -> Iterator[Decoded]:
    """Decodes every record of a data set, and shows on standard error how far it is."""
    from rich.progress import track

    from trainables.data.cache import decode_here

    what, images = f"decoding {len(dataset.records):,} images", decode_here(dataset, preprocessing)
    if not err.is_terminal:
        print_line(f"{what} …", err)
        return images
    return iter(track(images, what, total=len(dataset.records), console=err, transient=True))


def find_space(name: str) -> Path:
    """Returns the file of a search space: a path, or the bare name of a file in `search_spaces/`.

    Raises:
        ConfigError: neither exists; offers the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    folders = [Path(SEARCH_SPACES), PROJECT / SEARCH_SPACES]
    known = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}
    if name in known:
        return known[name]
    hint = did_you_mean(Path(name).stem, known) or f" (known: {', '.join(sorted(known)) or 'none'})"
    raise ConfigError(f"search space '{name}': no such file, nor {SEARCH_SPACES}/{name}.yaml{hint}")
