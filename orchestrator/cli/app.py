"""The command-line application: registers every command, and turns errors into an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from orchestrator import __version__
from orchestrator.cli import cluster, data, doctor, jobs, models, predict, run, schema, sweep, sweeps, ui
from trainables.errors import UserError
from trainables.shell import command

INVALID, INTERRUPTED = 2, 130

app = typer.Typer(
    name="orchestrator",
    help="Compare ways of adapting CLIP to chest X-rays. Every run is recorded in MLflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("sweep")(sweep.sweep)
app.add_typer(sweeps.app, name="sweeps")
app.command("leaderboard")(sweeps.leaderboard)
app.command("status")(sweeps.status)
app.command("stop")(sweeps.stop)
app.command("ui")(ui.ui)
app.command("sync")(sweeps.sync)
app.command("run")(run.run)
app.command("predict")(predict.predict)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.command(
    "submit",
    context_settings={"ignore_unknown_options": True},  # `submit` reads the options of `sweep` itself
)(jobs.submit)
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")
app.command("doctor")(doctor.doctor)
app.command("schema")(schema.schema)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"clip-orchestrator {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compare ways of adapting CLIP to chest X-rays. Every run is recorded in MLflow."""


def execute(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0: done. 1: failed. 2: invalid input. 3: a trial failed, or an image
    could not be read. 130: interrupted.

    Args:
        arguments: None = the arguments of this process.
    """
    try:
        status: Any = app(arguments, prog_name="orchestrator", standalone_mode=False)
    except UserError as error:
        return _refuse(str(error))
    except typer.TyperException as error:  # a usage error, such as an unknown option
        message = error.format_message()  # empty if the help was printed instead
        return _refuse(f"{message.rstrip('.')}. See {command('--help')}") if message else INVALID
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:
        typer.echo("interrupted", err=True)
    return status if isinstance(status, int) else 0


def _refuse(message: str) -> int:
    typer.echo(f"error: {message}", err=True)
    return INVALID
