"""Orders the trials: repeated attempts first, then the searcher's draws, then more seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from orchestrator.planning.identity import Identity
from orchestrator.results.seed_repeats import next_to_confirm
from orchestrator.search.searcher import Metrics, Searcher
from orchestrator.search.space import Draw
from orchestrator.storage.ledger import SweepState, TrialState
from trainables.config import TrialConfig, from_flat


class QueuedTrial(NamedTuple):
    """The next trial to place."""

    draw: Draw
    identity: Identity


class TrialQueue:
    """Queue of the trials to run, which also tells the searcher the results. Only reads `state`."""

    def __init__(
        self, searcher: Searcher, identify: Callable[[TrialConfig], Identity], state: SweepState
    ) -> None:
        self._searcher, self._identify, self._state = searcher, identify, state
        self._retries: list[str] = []  # trial keys
        self._drawn: list[Draw] = []  # drawn by the searcher, not placed yet
        self._untold: dict[str, list[Draw]] = {}  # trial key → draws that await a result
        self._is_exhausted = False

    def has_more(self) -> bool:
        """Says whether a trial is left to run; draws a trial if necessary."""
        if not self._retries and (draw := self._next_draw()) is not None:
            self._drawn.insert(0, draw)
        return bool(self._retries or self._drawn)

    def pop(self) -> QueuedTrial | None:
        """Returns the next trial, or None if there is no trial now. A repeated attempt keeps its keys."""
        if self._retries:
            trial = self._state.trials[self._retries.pop(0)]
            draw = Draw(trial.name, from_flat(trial.config), trial.is_baseline, confirms=trial.confirms)
            now = self._identify(draw.config)
            return QueuedTrial(draw, now._replace(trial_key=trial.trial_key, arm_key=trial.arm_key))
        if (draw := self._next_draw()) is None:
            return None
        identity = self._identify(draw.config)
        if not draw.confirms:
            self._untold[identity.trial_key] = [draw]
        return QueuedTrial(draw, identity)

    def retry(self, key: str) -> None:
        """Queues another attempt of a trial."""
        self._retries.append(key)

    def tell(self, key: str, metrics: Metrics | None) -> None:
        """Tells the searcher the metrics of a trial; None = it failed."""
        for draw in self._untold.pop(key, []):
            self._searcher.tell(draw, metrics)

    def redraw(self, key: str) -> None:
        """Asks the searcher for the draw of a trial that an earlier driver placed.

        If the searcher draws differently now (another version of Optuna), the old trial is kept, and the new
        draw runs later.
        """
        for place, draw in enumerate(self._drawn):
            if self._key_of(draw) == key:
                self._untold[key] = [self._drawn.pop(place)]
                return
        waiting, self._drawn = self._drawn, []
        draw = self._new_draw()
        self._drawn = waiting
        if draw is not None and self._key_of(draw) == key:
            self._untold[key] = [draw]
        elif draw is not None:
            self._drawn.append(draw)

    def resume(self, *, retry_failed: bool, is_exhausted: bool) -> bool:
        """Queues unfinished trials of earlier drivers; says whether the searcher drew the same trials again.

        Args:
            retry_failed: also queue failed and unavailable trials.
            is_exhausted: an earlier driver drew the whole space, so the searcher must not draw again.
        """
        undone = {"placed", "running"} | ({"failed", "unavailable"} if retry_failed else set[str]())
        self._retries = [key for key, trial in self._state.trials.items() if trial.status in undone]
        self._is_exhausted = is_exhausted
        return not self._drawn

    def _next_draw(self) -> Draw | None:
        return self._new_draw() or next_to_confirm(self._state)

    def _new_draw(self) -> Draw | None:
        """Returns the next draw that is not in the ledger; tells the searcher the results of the others."""
        while (draw := self._ask()) is not None:
            if (known := self._state.trials.get(self._key_of(draw))) is None:
                return draw
            self._tell_known(draw, known)
        return None

    def _ask(self) -> Draw | None:
        if self._drawn:
            return self._drawn.pop(0)
        draw = None if self._is_exhausted else self._searcher.ask()
        self._is_exhausted = draw is None
        return draw

    def _tell_known(self, draw: Draw, trial: TrialState) -> None:
        if trial.status in ("placed", "running"):
            self._untold.setdefault(trial.trial_key, []).append(draw)
        else:
            self._searcher.tell(draw, trial.metrics if trial.status == "finished" else None)

    def _key_of(self, draw: Draw) -> str:
        return self._identify(draw.config).trial_key
