"""The command line: `python -m orchestrator …`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from orchestrator.cli import cluster, data, doctor, jobs, models, run, schema, sweep, sweeps, ui
from trainables.errors import UserError
from trainables.shell import command

INVALID, INTERRUPTED = 2, 130

app = typer.Typer(
    name="orchestrator",
    help="Compare every way of adapting CLIP to chest X-rays; every run lands in MLflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("sweep")(sweep.sweep)
app.command(
    "submit",
    context_settings={"ignore_unknown_options": True},  # those of `sweep`, which the command reads itself
)(jobs.submit)
app.add_typer(jobs.app, name="jobs")
app.command("run")(run.run)
app.command("leaderboard")(sweeps.leaderboard)
app.command("status")(sweeps.status)
app.command("stop")(sweeps.stop)
app.add_typer(data.app, name="data")
app.add_typer(cluster.app, name="cluster")
app.add_typer(models.app, name="models")
app.command("ui")(ui.ui)
app.command("sync")(sweeps.sync)
app.command("doctor")(doctor.doctor)
app.command("schema")(schema.schema)


def execute(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0 done, 1 failed, 2 bad input, 3 a trial failed, 130 stopped.

    Args:
        arguments: None = those of this process.
    """
    try:
        status: Any = app(arguments, prog_name="orchestrator", standalone_mode=False)
    except UserError as error:
        return _refuse(str(error))
    except typer.TyperException as error:  # a usage error: no such option, no such command
        message = error.format_message()  # empty where the help has been printed instead
        return _refuse(f"{message.rstrip('.')}. See `{command('--help')}`") if message else INVALID
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:
        typer.echo("stopped", err=True)
    return status if isinstance(status, int) else 0


def _refuse(message: str) -> int:
    typer.echo(f"error: {message}", err=True)
    return INVALID
