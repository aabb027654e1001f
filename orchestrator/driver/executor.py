"""Runs the trials of a sweep on Ray. If Ray breaks down, starts Ray again and continues."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from orchestrator.cluster.local_ray import load_ray, local_ray
from orchestrator.cluster.resources import Concurrency, this_machine
from orchestrator.driver.controller import Controller
from orchestrator.driver.prefetch import begin_prefetch
from orchestrator.driver.rescale import wait_for_nodes
from orchestrator.driver.signals import StopRequest
from orchestrator.driver.sweep_options import SweepOptions, share_machine
from orchestrator.planning import provenance
from orchestrator.planning.data_notes import data_notes, datasets_of, is_by_image
from orchestrator.planning.identity import identify
from orchestrator.planning.tasks import findings_of, task_of
from orchestrator.results.seed_repeats import confirmed_counts
from orchestrator.search.space import SearchSpace
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.paths import store
from orchestrator.worker.trial_spec import TrialSpec
from trainables.config import from_flat
from trainables.errors import ClusterError
from trainables.models.catalogue.registry import encoder_fingerprint

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.


@dataclass(frozen=True)
class Executor:
    """Runs trials until none is left, the user ends the sweep, or no Ray is available."""

    controller: Controller
    space: SearchSpace
    options: SweepOptions
    stop: StopRequest

    def run(self, concurrency: Concurrency) -> None:
        """Runs every trial.

        Raises:
            DataError: an image cannot be decoded; no trial was placed.
            ClusterError: Ray did not start at first, or the cluster cannot be joined.
        """
        controller, cluster = self.controller, self.options.cluster
        if controller.state.began and not controller.has_more():  # interrupted after the last trial
            controller.start(self.started())
            return
        controller.say(f"connecting to the cluster at {cluster.address}" if cluster else "starting Ray")
        self.load_ray()
        need = self.template(concurrency).need
        inputs = cache(begin_prefetch(self.space, controller, self.stop, cluster=cluster, need=need))
        at_first = concurrency
        is_over = self.run_on_ray(concurrency, inputs, is_first=True)
        while not (is_over or self.stop.exit_code) and controller.may_place():
            controller.say("connecting to the cluster again" if cluster else "starting Ray again")
            try:
                if cluster is not None:
                    left = wait_for_nodes(cluster.address, at_first, controller.say, self.stop)
                    if left is None:
                        return
                    options = replace(self.options, cluster=left.cluster, num_workers=left.num_workers)
                    concurrency = share_machine(self.space, options, at_first.device)
                    controller.say(concurrency.reason)
                is_over = self.run_on_ray(concurrency, inputs)
            except ClusterError as error:
                problem = "the cluster is lost" if cluster else "Ray did not start again"
                controller.circuit_breaker.give_up(f"{problem} ({error})")

    def run_on_ray(
        self, concurrency: Concurrency, inputs: Callable[[], dict[str, str]], *, is_first: bool = False
    ) -> bool:
        """Starts Ray, runs trials and stops Ray; says whether the trials ended by themselves.

        `inputs` waits until the shared inputs of all trials are ready. With `is_first`, records the start.
        """
        controller = self.controller
        with self.open_ray(concurrency) as scratch:
            template = replace(self.template(concurrency), scratch=str(scratch), inputs=inputs())
            if self.stop.is_asked_to_stop:  # before the first trial
                return True
            from orchestrator.driver.trial_schedulers import early_stopping_note
            from orchestrator.driver.tune_adapter import run_trials

            if is_first:
                self.check_storage()
                if note := early_stopping_note(self.space):
                    controller.say(note)
                controller.start(self.started())
            with self.stop.gently():
                return run_trials(
                    controller,
                    self.space,
                    template,
                    max_concurrent=concurrency.max_concurrent,
                    is_stopping=lambda: bool(self.stop.exit_code) or controller.is_taken_over,
                    cluster=self.options.cluster,
                )

    def load_ray(self) -> None:
        """Imports Ray with the settings for a cluster or for this machine."""
        if self.options.cluster is None:
            load_ray()
        else:
            from orchestrator.cluster import cluster_ray

            cluster_ray.load_ray()

    def open_ray(self, concurrency: Concurrency) -> AbstractContextManager[Path]:
        """Starts a local Ray or joins the cluster; yields a scratch folder."""
        log = self.controller.folder / "ray.log"
        if self.options.cluster is None:
            return local_ray(concurrency, log=log, num_workers=concurrency.num_workers)
        from orchestrator.cluster.cluster_ray import cluster_ray

        scratch = self.controller.folder / "scratch"
        return cluster_ray(
            self.options.cluster, log=log, scratch=scratch, spans_nodes=concurrency.spans_nodes
        )

    def check_storage(self) -> None:
        """Checks that every node reaches the storage, if there is one."""
        if (mirror := self.controller.settings.mirror) is not None:
            from orchestrator.driver.node_check import check_nodes

            check_nodes(mirror.storage)

    def template(self, concurrency: Concurrency) -> TrialSpec:
        """Returns the settings that all trials share. With a storage, folders are relative paths."""
        mirror = self.controller.settings.mirror
        return TrialSpec(
            trial_key="",
            attempt=0,
            config={},
            trainable=self.options.trainable,
            objective=self.space.objective,
            workdir="",
            store=str(store()) if mirror is None else store().name,
            scratch="",
            device=concurrency.device,
            num_workers=concurrency.num_workers,
            cpus_per_trial=concurrency.cpus_per_trial,
            gpus_per_trial=concurrency.gpus_per_trial,
            memory_budget_gb=concurrency.memory_budget_gb,
            storage=None if mirror is None else mirror.storage.uri,
            spans_nodes=concurrency.spans_nodes,
        )

    def started(self) -> SweepStarted:
        """Returns the ledger entry that records the start of this driver."""
        state, mirror = self.controller.state, self.controller.settings.mirror
        return replace(
            describe(state.name, self.space),
            plan_fingerprint=self.options.plan_fingerprint or state.opened.plan_fingerprint,
            storage=None if mirror is None else mirror.storage.uri,
        )


def describe(name: str, space: SearchSpace) -> SweepStarted:
    """Returns a ledger entry with the inputs of a sweep."""
    first, datasets = from_flat(space.default_config()), datasets_of(space)
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
        data_notes=list(data_notes(datasets)),
        by_image=is_by_image(datasets),
        task=task_of(datasets),
        findings=findings_of(datasets),
    )
