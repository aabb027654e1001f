"""Options and output functions that the commands share, and the search for a search-space file."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

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
    from trainables.data.survey import Facts

ImageT = TypeVar("ImageT")
SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set one field, such as lora.rank=8. Repeat for more fields."
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
WorkersOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Number of processes per trial, which share its batch. Default: execution.num_workers.",
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
        help="Head node of the Ray cluster, or 'auto'. Default: $RAY_ADDRESS, else this machine alone.",
    ),
]
StorageOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar=STORAGE_VARIABLE,
        metavar="URI",
        help="Storage for a copy of the sweep: a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER. "
        "The nodes of a cluster also exchange their files through this storage.",
    ),
]

SEARCH_SPACES = "search_spaces"

out = Console()
err = Console(stderr=True)


def print_line(text: str, console: Console = out, style: str | None = None) -> None:
    """Prints one line without wrapping or highlighting."""
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=1))


@contextmanager
def doing(what: str) -> Generator[None]:
    """Shows a slow activity on standard error: a spinner on a terminal, else a plain line."""
    if not err.is_terminal:
        print_line(f"{what} …", err)
        yield
        return
    with err.status(f"{what} …"):
        yield


def decode_with_bar(dataset: Dataset, preprocessing: PreprocessingSpec) -> Iterator[Decoded]:
    """Decodes every record of a data set, and shows the progress on standard error."""
    from trainables.data.cache import decode_here

    return _with_bar(decode_here(dataset, preprocessing), len(dataset.records))


def examine_with_bar(dataset: Dataset) -> Iterator[Facts | str]:
    """Decodes and examines every record of a data set, and shows the progress on standard error."""
    from trainables.data.survey import examine_here

    return _with_bar(examine_here(dataset), len(dataset.records))


def _with_bar(images: Iterator[ImageT], num_images: int) -> Iterator[ImageT]:
    from rich.progress import track

    what = f"decoding {num_images:,} images"
    if not err.is_terminal:
        print_line(f"{what} …", err)
        return images
    return iter(track(images, what, total=num_images, console=err, transient=True))


@contextmanager
def fraction_bar(what: str) -> Generator[Callable[[float], None]]:
    """Shows the progress of an activity on standard error. Yields a function for the done fraction."""
    from rich.progress import Progress

    if not err.is_terminal:
        print_line(f"{what} …", err)
        yield lambda fraction: None
        return
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda fraction: progress.update(task, completed=fraction)


def find_space(name: str) -> Path:
    """Returns the file of a search space. `name` is a path, or the name of a file in `search_spaces/`.

    Raises:
        ConfigError: neither exists; suggests the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    folders = [Path(SEARCH_SPACES), PROJECT / SEARCH_SPACES]
    known = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}
    if name in known:
        return known[name]
    hint = did_you_mean(Path(name).stem, known) or f" (known: {', '.join(sorted(known)) or 'none'})"
    raise ConfigError(f"search space '{name}': no such file, and no {SEARCH_SPACES}/{name}.yaml{hint}")
