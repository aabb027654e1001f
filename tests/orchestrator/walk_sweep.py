"""Sweeps of the trainable `walk`, and what two of them have to agree in."""

from pathlib import Path

from sweep_process import space_of

from orchestrator.storage.ledger import SweepState, read_ledger

WALK = {"trainable": "toy_trainable:walk", "name": "walk"}


def walk_space(*ranks: int, num_epochs: int = 4, **search) -> dict:
    space = space_of(*ranks)
    return space | {
        "fixed": space["fixed"] | {"num_epochs": num_epochs},
        "search": space["search"] | {"max_concurrent": 1} | search,
    }


def sweep_of(home: Path) -> SweepState:
    return read_ledger(home / "sweeps" / "walk")


def values(state: SweepState) -> list[tuple[str, int, float]]:
    """Every epoch of every trial as it stands in the ledger, repetitions too."""
    return sorted(
        (trial.trial_key, epoch, metrics["train/loss"])
        for trial in state.trials.values()
        for _, epoch, metrics in trial.history
    )


def assert_equal_to(clean: SweepState, found: SweepState) -> None:
    assert list(found.trials) == list(clean.trials)  # the same trials, in the same order
    assert values(found) == values(clean)
    assert len(set(values(found))) == len(values(found))
    ends = [[(trial.status, trial.metrics) for trial in state.trials.values()] for state in (clean, found)]
    assert ends[0] == ends[1]
