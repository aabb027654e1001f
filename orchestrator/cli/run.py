"""`run`: runs one trainable, without Ray and without a sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, SetOption, WorkersOption, doing, print_json, print_line
from trainables import TRAINABLES


def run(
    trainable: Annotated[str, typer.Argument(metavar="TRAINABLE", help=f"One of {', '.join(TRAINABLES)}.")],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one trainable on this machine, without Ray."""
    with doing("checking the settings"):
        from orchestrator.planning.checks import check_trials
        from orchestrator.storage.paths import home, store
        from orchestrator.worker.local_run import run_locally
        from trainables.artifacts import fingerprint
        from trainables.config.fields import build_trial, did_you_mean, read_overrides
        from trainables.errors import ConfigError
        from trainables.training.hardware import settle_precision

        if trainable not in TRAINABLES:
            hint = did_you_mean(trainable, TRAINABLES) or f" (known: {', '.join(TRAINABLES)})"
            raise ConfigError(f"trainable '{trainable}': unknown{hint}")
        flat = read_overrides(overrides or [])
        if workers:
            flat["execution.num_workers"] = workers
        config = settle_precision(build_trial(flat, where="--set"))
        check_trials([config])
    workdir = home() / "runs" / fingerprint("run", config)  # `evaluate` finds `adapt`'s output in it
    metrics = run_locally(trainable, config, workdir=workdir, store=store())
    if as_json:
        print_json({"workdir": str(workdir), "metrics": dict(metrics)})
        return
    for name, value in metrics.items():
        if not name.endswith(("_low", "_high")):
            ends = [
                f"{metrics[f'{name}_{end}']:.3f}" for end in ("low", "high") if f"{name}_{end}" in metrics
            ]
            interval = f"[{' '.join(ends)}]" if ends else ""
            print_line(f"{value:14.4f}  {interval:15}  {name}")
    print_line(f"results: {workdir}")
