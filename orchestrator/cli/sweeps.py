"""`leaderboard`, `status`, `stop` and `sync`: sweeps that are there."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from orchestrator.cli.options import JsonOption, out, print_json
from orchestrator.storage.uri import STORAGE_VARIABLE
from trainables.shell import command

if TYPE_CHECKING:
    from orchestrator.storage.store import Storage

SweepArgument: TypeAlias = Annotated[str | None, typer.Argument(metavar="SWEEP", help="None = the newest.")]
ThereOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URI",
        help="Read it from there, wherever it runs; nothing is written. None = from this machine, and from "
        f"{STORAGE_VARIABLE} what is not here.",
    ),
]


def leaderboard(
    sweep: SweepArgument = None, storage: ThereOption = None, as_json: JsonOption = False
) -> None:
    """Show what a sweep found, with intervals."""
    from orchestrator.results.leaderboard import leaderboard as rank
    from orchestrator.results.terminal_report import render
    from orchestrator.storage.ledger import read_ledger

    with found(sweep, storage) as (folder, _):
        board = rank(read_ledger(folder))
    if as_json:
        typer.echo(board.to_json())
    else:
        render(board, out)


def sync(sweep: SweepArgument = None) -> int:
    """Write a sweep into MLflow, completing what is missing there."""
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.paths import mlflow_uri, sweep_folder
    from orchestrator.tracking.replay import sync as replay

    folder = sweep_folder(sweep or newest_sweep())
    read_ledger(folder)  # no such sweep, or a damaged ledger: said before MLflow is asked
    replayed = replay(folder, mlflow_uri())
    for notice in replayed.notices:
        typer.echo(notice)
    reason = replayed.reason
    typer.echo(
        f"sweep '{folder.name}' is not whole in MLflow: {reason}"
        if reason
        else f"'{folder.name}' is in MLflow"
    )
    return 1 if reason else 0


def status(sweep: SweepArgument = None, storage: ThereOption = None, as_json: JsonOption = False) -> None:
    """Show what of a sweep is done, runs, failed or is still to come."""
    from orchestrator.results.status import read_status

    with found(sweep, storage) as (folder, there):
        seen = read_status(folder, there)
    if as_json:
        print_json(seen.to_dict())
        return
    for line in seen.lines():
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def stop(sweep: Annotated[str, typer.Argument(metavar="SWEEP")]) -> None:
    """Let a running sweep end after its running epochs; it can be resumed."""
    from orchestrator.storage.driver_lock import ask_to_stop
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.paths import sweep_folder

    folder = sweep_folder(sweep)
    read_ledger(folder)  # no such sweep: offers the nearest name
    pid = ask_to_stop(folder)
    typer.echo(f"asked process {pid} to stop '{sweep}' after the running epochs")
    typer.echo(f"go on later: {command(f'sweep --resume {sweep}')}")


@contextmanager
def found(sweep: str | None, uri: str | None) -> Generator[tuple[Path, Storage | None]]:
    """Yields the folder of a sweep, and the storage that it is a copy from; None = it lies on this machine.

    Args:
        sweep: its name; None = the newest.
        uri: of a storage. None = it lies here; if not, in what the environment names.

    Raises:
        ConfigError: a name that is no folder name, or a URI that is none of a storage.
        DataError: no such sweep; offers the nearest name.
        StorageError: the storage does not answer.
    """
    from orchestrator.storage.paths import sweep_folder, sweep_names

    here = sweep_names()
    if uri is None and not (sweep in here or (sweep is None and here)):
        uri = os.environ.get(STORAGE_VARIABLE) or None
    if uri is None:
        yield sweep_folder(sweep or newest_sweep()), None
        return
    from orchestrator.storage.remote_sweeps import copied, newest_in
    from orchestrator.storage.store import open_storage

    there = open_storage(uri)
    name = sweep_folder(sweep).name if sweep else newest_in(there)  # a name that leads out is refused
    with copied(there, name, here) as folder:
        yield folder, there


def newest_sweep() -> str:
    """Returns the name of the sweep that was written last.

    Raises:
        DataError: there is none.
    """
    from orchestrator.storage.paths import home, sweep_names
    from trainables.errors import DataError

    if names := sweep_names():
        return names[-1]
    raise DataError(f"no sweep in {home()}; start one: {command('sweep')}")
