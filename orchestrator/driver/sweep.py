"""Runs one sweep: one Ray Tune run over a search space, recorded in a ledger, then scored on test."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.driver.controller import Controller, RunSettings
from orchestrator.driver.executor import Executor
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.open_test import arms_to_open, is_evaluated, open_test
from orchestrator.driver.resume import check_drift, keep_keys, was_complete
from orchestrator.driver.signals import StopRequest, stop_requests
from orchestrator.driver.sweep_claim import claimed, mirrored
from orchestrator.driver.sweep_options import SweepOptions, resume_command, share_machine
from orchestrator.planning.checks import check_ready
from orchestrator.planning.pinned_weights import PinnedWeights
from orchestrator.search.searcher import open_searcher
from orchestrator.search.space import SearchSpace
from orchestrator.storage.events import SweepFinished
from orchestrator.storage.ledger import Ledger, LedgerReader, read_ledger
from orchestrator.storage.mirror import Mirror, reach
from trainables.config import TrialConfig, from_flat
from trainables.data.datasets import load_dataset
from trainables.errors import UserError


@dataclass(frozen=True)
class SweepOutcome:
    """Result of a sweep: its exit status and its name.

    Attributes:
        exit_code: 0 all done, 3 some trials failed or none finished, 128 + n ended by signal n.
        name: name of the sweep.
    """

    exit_code: int
    name: str


def run_sweep(
    space: SearchSpace, options: SweepOptions | None = None, observer: SweepObserver | None = None
) -> SweepOutcome:
    """Runs every trial of a space, on this machine or a cluster, then scores the best arms on test.

    Call it on the main thread. The ledger records every event; workers and Tune never write to MLflow.

    Raises:
        UserError: the input is invalid, the name is in use or the machine is too small; nothing was started.
    """
    options, observer = options or SweepOptions(), observer or SweepObserver()
    concurrency = share_machine(space, options)
    load_dataset(from_flat(space.default_config()).data)  # reports missing data before the start
    storage = reach(options.storage) if options.storage else None
    is_shared, began = options.cluster is not None, time.monotonic()
    with (
        stop_requests() as stop,
        claimed(space.name, options.name, resumes=options.resumes) as (folder, ledger),
        mirrored(
            storage, folder, observer.on_message, resumes=options.resumes, is_shared=is_shared
        ) as mirror,
    ):
        controller = open_controller(space, options, ledger, observer, folder=folder, mirror=mirror)
        if options.resumes and is_done(controller, space, options):
            controller.say(f"'{folder.name}' is complete: nothing is left to do (--extend N adds trials)")
            return SweepOutcome(controller.exit_code(), folder.name)
        is_tested = True
        try:
            Executor(controller, space, options, stop).run(concurrency)
            if options.opens_test and not stop.exit_code and not controller.is_cut_short:
                is_tested = evaluate_test(controller, space)
        except KeyboardInterrupt:  # outside Tune's loop, which ends by itself
            stop.interrupt()
        exit_code = stop.exit_code or (controller.exit_code() if is_tested else 3)
        report_stop(controller, stop)
        if controller.state.began:
            seconds, is_cut_short = time.monotonic() - began, controller.is_cut_short
            controller.record(SweepFinished(exit_code=exit_code, seconds=seconds, is_cut_short=is_cut_short))
    return SweepOutcome(exit_code, folder.name)


def open_controller(
    space: SearchSpace,
    options: SweepOptions,
    ledger: Ledger,
    observer: SweepObserver,
    *,
    folder: Path,
    mirror: Mirror | None = None,
) -> Controller:
    """Returns the controller of a sweep; a resumed sweep continues from the state of its ledger.

    Raises:
        DataError: a resumed sweep was started with other code, data or weights.
    """
    pinned = PinnedWeights()
    past = read_ledger(folder) if options.resumes else None
    if past is not None:
        check_drift(past, pinned.identify)

    def check(config: TrialConfig) -> None:
        check_ready(config)
        pinned.check(config)

    settings = RunSettings(
        folder,
        identify=pinned.identify if past is None else keep_keys(past, pinned.identify),
        search=space.search,
        check=check,
        mirror=mirror,
        resume_command=resume_command(folder.name, options),
    )
    controller = Controller(settings, ledger, open_searcher(space), observer)
    if past is not None:
        controller.replay(
            LedgerReader(folder).poll(),
            retry_failed=options.retry_failed,
            is_exhausted=was_complete(past, space),
        )
    return controller


def is_done(controller: Controller, space: SearchSpace, options: SweepOptions) -> bool:
    """Says whether a resumed sweep has no trial to run and no arm to score on test."""
    wanted = arms_to_open(controller.state, space) if options.opens_test else []
    has_ended = was_complete(controller.state, space) and not controller.has_more()
    return has_ended and is_evaluated(controller.state, wanted)


def evaluate_test(controller: Controller, space: SearchSpace) -> bool:
    """Scores the best arms on test, and says whether that succeeded. Trials are kept in any case."""
    try:
        open_test(controller, arms_to_open(controller.state, space))
    except UserError as error:
        controller.say(f"the sweep was not scored on test: {error}")
        return False
    return True


def report_stop(controller: Controller, stop: StopRequest) -> None:
    """Tells a user who ended the sweep how to resume it."""
    if stop.exit_code:
        how = "interrupted" if stop.signal_number else "stopped after the running epochs"
        kept = f"finished trials are kept. Resume: {controller.settings.resume_command}"
        controller.say(f"{how}; {kept if controller.state.began else 'no trial was started'}")
