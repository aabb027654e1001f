"""One sweep: one Ray Tune run over a search space, its ledger, and at its end the test labels."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.cluster.fit import fit
from orchestrator.cluster.local_ray import load_ray, local_ray
from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.resources import Concurrency, GpuShare, TrialMemory, this_machine
from orchestrator.driver.controller import Controller, SweepObserver
from orchestrator.driver.open_test import arms_to_open, is_evaluated, open_test
from orchestrator.driver.prefetch import preparation
from orchestrator.driver.rescale import ordered, what_is_left
from orchestrator.driver.resume import check_drift, replay, was_complete
from orchestrator.driver.signals import Interruption, interruption
from orchestrator.driver.sweep_claim import claimed, is_taken, mirrored
from orchestrator.planning import provenance
from orchestrator.planning.checks import check_ready
from orchestrator.planning.identity import identify
from orchestrator.planning.pinned_weights import PinnedWeights
from orchestrator.results.seed_repeats import confirmed_counts
from orchestrator.search.searcher import open_searcher
from orchestrator.search.space import SearchSpace
from orchestrator.storage.events import SweepFinished, SweepStarted
from orchestrator.storage.ledger import Ledger, SweepState, read_ledger
from orchestrator.storage.mirror import Mirror, reach
from orchestrator.storage.paths import store
from orchestrator.worker.trial_spec import TrialSpec
from trainables import TRAINABLES
from trainables.config import TrialConfig, from_flat
from trainables.data.datasets import load_dataset
from trainables.errors import ClusterError, UserError
from trainables.models.catalogue.registry import encoder_fingerprint
from trainables.shell import command

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep runs, beside what it tries."""

    name: str | None = None  # none = the space's name and the time
    num_workers: int | None = None  # none = `execution.num_workers` of the space
    gpus_per_trial: GpuShare = None  # none = `search.gpus_per_trial` of the space
    trainable: str = TRAINABLES["adapt"]
    opens_test: bool = True
    resumes: bool = False  # the sweep of this name, whose space is in its ledger
    retry_failed: bool = False  # when it is resumed
    memory: TrialMemory | None = None  # of a worker, as planned; none = that of a small encoder
    plan_fingerprint: str | None = None  # of the plan file that it runs
    cluster: Cluster | None = None  # to connect to; none = a Ray of our own on this machine
    storage: str | None = None  # URI of where the sweep is kept beside this machine


@dataclass(frozen=True)
class SweepOutcome:
    """`exit_code`: 0 all done, 3 some trials failed or none finished, 128 + n ended by signal n."""

    exit_code: int
    name: str


def run_sweep(
    space: SearchSpace, options: SweepOptions | None = None, observer: SweepObserver | None = None
) -> SweepOutcome:
    """Runs every trial of a space, here or on a cluster, then opens the test labels for the arms that count.

    Call it on the main thread. What happens is in the ledger; workers and Tune never talk to MLflow.

    Raises:
        UserError: bad input, a name in use, a machine that is too small; nothing was started.
    """
    options, observer = options or SweepOptions(), observer or SweepObserver()
    concurrency = share_machine(space, options)
    load_dataset(from_flat(space.default_config()).data)  # missing data is said before anything starts
    began = time.monotonic()
    storage = reach(options.storage) if options.storage else None
    with (
        interruption() as interrupted,
        claimed(space.name, options.name, resumes=options.resumes) as (folder, ledger),
        mirrored(storage, folder, observer.on_message, resumes=options.resumes) as mirror,
    ):
        controller = open_conductor(space, options, concurrency, ledger, folder=folder, observer=observer)
        if mirror is not None:
            mirror.is_shared = options.cluster is not None
            keep_in(mirror, controller)
        if options.resumes:
            bring_back(controller, space, retry_failed=options.retry_failed)
            if is_done(controller, space, options):
                controller.say(f"'{folder.name}' is complete: nothing is left to do (--extend N adds trials)")
                return SweepOutcome(controller.exit_code(), folder.name)
        is_tested = True
        try:
            run_all(controller, space, concurrency, interrupted, options)
            if options.opens_test and not interrupted.exit_code and not controller.is_cut_short:
                is_tested = evaluate_test(controller, space)
        except KeyboardInterrupt:  # outside Tune's loop, which ends by itself
            interrupted.signal_number = interrupted.signal_number or signal.SIGINT
        if interrupted.exit_code:
            how = "interrupted" if interrupted.signal_number else "stopped after the running epochs"
            then = f"; go on: {command(f'sweep --resume {folder.name}')}" if is_taken(folder) else ""
            controller.say(f"{how}; what was finished is kept{then}")
        exit_code = interrupted.exit_code or (controller.exit_code() if is_tested else 3)
        if controller.state.began:
            seconds, is_cut_short = time.monotonic() - began, controller.is_cut_short
            controller.record(SweepFinished(exit_code=exit_code, seconds=seconds, is_cut_short=is_cut_short))
    return SweepOutcome(exit_code, folder.name)


def bring_back(controller: Controller, space: SearchSpace, *, retry_failed: bool) -> None:
    """Brings a resumed sweep to where its last driver left it.

    Raises:
        DataError: code, data or weights are not those that it was started with.
    """
    state = read_ledger(controller.folder)
    check_drift(state, controller.identify)
    replay(controller, controller.folder, retry_failed=retry_failed)
    if plan := state.opened.plan_fingerprint:
        controller.stands_on = controller.stands_on | {"plan_fingerprint": plan}
    controller.is_exhausted = was_complete(state, space)  # a searcher that repeats itself could find more now


def is_done(controller: Controller, space: SearchSpace, options: SweepOptions) -> bool:
    """Says whether a resumed sweep has neither trials nor test values left to come."""
    wanted = arms_to_open(controller.state, space) if options.opens_test else []
    has_ended = controller.is_exhausted and not controller.has_more()
    return has_ended and is_evaluated(controller.state, wanted)


def share_machine(space: SearchSpace, options: SweepOptions, device: str | None = None) -> Concurrency:
    """Returns how many trials run at once; a space without a choice of device takes a GPU if there is one."""
    return fit(
        options.num_workers or space.base("execution.num_workers"),
        device or space.base("execution.device"),
        cluster=options.cluster,
        num_trials=space.num_trials + space.num_baselines,
        max_concurrent=space.search.max_concurrent,
        gpus_per_trial=options.gpus_per_trial or space.search.gpus_per_trial,
        memory=options.memory,
    )


def keep_in(mirror: Mirror, controller: Controller) -> None:
    """Lets nodes exchange a sweep's files through its storage, each below its own home."""
    controller.mirror = mirror
    controller.order = replace(controller.order, storage=mirror.storage.uri, store=store().name)
    controller.stands_on = controller.stands_on | {"storage": mirror.storage.uri}


def open_conductor(
    space: SearchSpace,
    options: SweepOptions,
    concurrency: Concurrency,
    ledger: Ledger,
    *,
    folder: Path,
    observer: SweepObserver,
) -> Controller:
    """Returns what runs the sweep; nothing has happened yet."""
    order = TrialSpec(
        trial_key="",
        attempt=0,
        config={},
        trainable=options.trainable,
        objective=space.objective,
        workdir="",
        store=str(store()),
        scratch="",
        device=concurrency.device,
        num_workers=options.num_workers or space.base("execution.num_workers"),
        cpus_per_trial=concurrency.cpus_per_trial,
        gpus_per_trial=concurrency.gpus_per_trial,
        memory_budget_gb=concurrency.memory_budget_gb,
        spans_nodes=concurrency.spans_nodes,
    )
    first = PinnedWeights()

    def check(config: TrialConfig) -> None:
        check_ready(config)
        first.check(config)

    return Controller(
        ledger,
        SweepState(folder.name),
        open_searcher(space),
        observer,
        first.identify,
        order,
        folder,
        settings=space.search,
        check=check,
        stands_on={"plan_fingerprint": options.plan_fingerprint} if options.plan_fingerprint else {},
    )


def run_all(
    controller: Controller,
    space: SearchSpace,
    concurrency: Concurrency,
    interrupted: Interruption,
    options: SweepOptions,
) -> None:
    """Starts or joins Ray, runs every trial and leaves it. A bad image ends it before any trial is placed."""
    if controller.state.began and not controller.has_more():  # it was interrupted after its last trial
        start(controller, space)
        return
    cluster = options.cluster
    open_ray = opener(controller, concurrency, cluster)
    after = preparation(space, cluster, controller, lambda: interrupted.is_asked_to_stop)
    run = partial(run_on_a_ray, controller, space, cluster, interrupted)
    is_done = run(concurrency, open_ray, after=after, is_first=True)
    while not (is_done or interrupted.exit_code) and controller.may_place():
        controller.say("the sweep connects again" if cluster else "the sweep goes on with another Ray")
        try:
            if cluster:
                planned = options.num_workers or space.base("execution.num_workers")
                if (left := what_is_left(controller, cluster.address, planned, interrupted)) is None:
                    return
                concurrency = share_machine(space, replace(options, **left), controller.order.device)
                controller.order = ordered(controller.order, concurrency)
                controller.say(concurrency.reason)
                open_ray = opener(controller, concurrency, cluster)
            is_done = run(concurrency, open_ray)
        except ClusterError as error:
            what = "the cluster is lost" if cluster else "no other Ray could be started"
            controller.circuit_breaker.give_up(f"{what} ({error})")


def opener(
    controller: Controller, concurrency: Concurrency, cluster: Cluster | None
) -> Callable[[], AbstractContextManager[Path]]:
    """Returns what starts a Ray of our own, or joins a cluster, each time it is called; loads Ray for it."""
    log = controller.folder / "ray.log"
    if cluster is None:
        load_ray()
        return lambda: local_ray(concurrency, log=log, num_workers=concurrency.num_workers)
    from orchestrator.cluster import cluster_ray

    cluster_ray.load_ray()
    scratch, spans_nodes = controller.folder / "scratch", concurrency.spans_nodes
    return lambda: cluster_ray.cluster_ray(cluster, log=log, scratch=scratch, spans_nodes=spans_nodes)


def run_on_a_ray(
    controller: Controller,
    space: SearchSpace,
    cluster: Cluster | None,
    interrupted: Interruption,
    concurrency: Concurrency,
    open_ray: Callable[[], AbstractContextManager[Path]],
    *,
    after: Callable[[], None] = lambda: None,
    is_first: bool = False,
) -> bool:
    """Opens Ray, runs trials and leaves it; says whether it was not Ray's death that ended them.

    Args:
        controller: gives out the trials.
        space: has their searcher and scheduler.
        cluster: that they run on; none = a Ray of our own.
        interrupted: whether the user wants them to end.
        concurrency: what they share.
        open_ray: yields a scratch folder while Ray runs.
        after: is waited for, once Ray has started.
        is_first: puts the start of the sweep on record.
    """
    with open_ray() as scratch:
        after()
        if interrupted.is_asked_to_stop:  # before there was anything to stop
            return True
        from orchestrator.driver.tune_adapter import honest_sentence, run_trials

        controller.order = replace(controller.order, scratch=str(scratch))
        if is_first:
            if controller.mirror is not None:
                from orchestrator.driver.node_check import check_nodes

                check_nodes(controller.mirror.storage)
            if sentence := honest_sentence(space):
                controller.observer.on_message(sentence)
            start(controller, space)
        with interrupted.gently():
            return run_trials(
                controller,
                space,
                max_concurrent=concurrency.max_concurrent,
                scratch=scratch,
                is_stopping=lambda: bool(interrupted.exit_code) or controller.is_taken_over,
                cluster=cluster,
            )


def start(controller: Controller, space: SearchSpace) -> None:
    """Puts on record that a driver begins, or goes on, and on what it stands."""
    controller.record(replace(describe(controller.folder.name, space), **controller.stands_on))
    controller.observer.on_started(controller.folder, controller.state)


def evaluate_test(controller: Controller, space: SearchSpace) -> bool:
    """Opens the test labels for the arms that count; says whether that went well. Trials are safe anyway."""
    try:
        open_test(controller, arms_to_open(controller.state, space))
    except UserError as error:
        controller.observer.on_message(f"not evaluated on test: {error}")
        return False
    return True


def describe(name: str, space: SearchSpace) -> SweepStarted:
    """Returns the ledger's first entry: the inputs of a sweep."""
    first = from_flat(space.default_config())
    return SweepStarted(
        name=name,
        experiment=space.experiment,
        space=space.to_dict(),
        space_fingerprint=space.fingerprint,
        objective=space.objective,
        num_trials=space.num_trials + space.num_baselines,
        num_to_confirm=sum(confirmed_counts(space)),
        code_fingerprint=provenance.code_fingerprint(),
        git=provenance.git(),
        versions=provenance.versions(),
        hardware=provenance.hardware(this_machine()),
        data_fingerprint=identify(first).data,
        encoder_fingerprint=encoder_fingerprint(first.encoder),
        seed=space.search.seed,
    )
