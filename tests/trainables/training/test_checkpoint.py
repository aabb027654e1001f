"""A resumed run repeats the uninterrupted one exactly; a damaged or foreign checkpoint changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables import artifacts
from trainables.config import OptimConfig
from trainables.errors import DataError
from trainables.training import checkpoint
from trainables.training.optim import TrainState

pytestmark = pytest.mark.kernels


def new_state(*, width: int = 3, trains: str = "a") -> TrainState:
    generator = torch.Generator().manual_seed(0)
    shapes = {"lora.A": (2, width), "lora.B": (width, 2), "log_logit_scale": ()}
    parameters = {
        name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()
    }
    scale = parameters["log_logit_scale"]
    optim = OptimConfig(learning_rate=0.1)
    return TrainState(parameters, optim, total_steps=12, log_logit_scale=scale, trains=trains)


def train(state: TrainState, until: int) -> TrainState:
    while state.step < until:
        for number, parameter in enumerate(state.parameters.values()):
            parameter.grad = torch.sin(parameter.detach() * 3 + state.step + number)
        state.apply_gradients()
    return state


def saved(state: TrainState, folder: Path) -> Path:
    place = state.save(folder)
    assert place is not None
    return place


def is_same(state: TrainState, other: TrainState) -> bool:
    pairs = zip(state.parameters.values(), other.parameters.values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    place = saved(train(new_state(), 5), tmp_path)
    resumed = train(new_state(), 2)  # whatever stood there is replaced
    resumed.restore(place)
    assert resumed.step == 5
    assert is_same(train(resumed, 12), train(new_state(), 12))


def test_a_checkpoint_before_the_first_step_is_whole(tmp_path: Path) -> None:
    place = saved(new_state(), tmp_path)
    resumed = train(new_state(), 3)
    resumed.restore(place)
    assert is_same(resumed, new_state())
    assert not resumed.optimizer.state


def test_only_rank_0_writes(tmp_path: Path) -> None:
    assert new_state().save(tmp_path, rank=1) is None
    assert not list(tmp_path.iterdir())


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    state = new_state()
    places = [saved(train(state, step), tmp_path) for step in (2, 4, 6)]
    assert sorted(tmp_path.iterdir()) == places[1:]
    assert checkpoint.newest_first(tmp_path) == [places[2], places[1]]


def test_a_kill_while_writing_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = train(new_state(), 2)
    place = saved(state, tmp_path)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(checkpoint, "save_file", kill)
    with pytest.raises(Killed):
        train(state, 4).save(tmp_path)
    artifacts.verify(place)
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_kill_left_unfinished_is_removed_by_the_next_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".step-00000002.abc").mkdir()
    place = saved(train(new_state(), 2), tmp_path)
    assert list(tmp_path.iterdir()) == [place]


def test_the_latest_checkpoint_is_the_furthest_of_any_length_of_number(tmp_path: Path) -> None:
    assert checkpoint.latest_checkpoint(tmp_path / "none") == (None, [])
    for step in ("00000008", "123456789", "00000009"):
        with artifacts.atomic_directory(tmp_path / f"step-{step}"):
            pass
    assert checkpoint.latest_checkpoint(tmp_path) == (tmp_path / "step-123456789", [])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [truncate, flip_a_bit, empty, Path.unlink])
@pytest.mark.parametrize(
    "name", [checkpoint.PARAMETERS, checkpoint.MOMENTS, checkpoint.PROGRESS, artifacts.MANIFEST]
)
def test_a_damaged_checkpoint_is_passed_over_by_name_and_never_for_nothing(
    tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    state = new_state()
    sound, newest = (saved(train(state, step), tmp_path) for step in (2, 4))
    spoil(newest / name)
    found, damages = checkpoint.latest_checkpoint(tmp_path)
    assert found == sound
    assert len(damages) == 1
    assert str(newest) in damages[0]
    assert name in damages[0] or name == artifacts.MANIFEST  # whose hashes then accuse another file
    spoil(sound / name)
    with pytest.raises(DataError, match="no sound checkpoint is left"):
        checkpoint.latest_checkpoint(tmp_path)


def test_a_checkpoint_keeps_what_was_said(tmp_path: Path) -> None:
    state = train(new_state(), 2)
    state.losses, state.epochs = [1.1, 0.1 + 0.2], [{"train/epoch": 1.0, "train/loss": 0.7}]
    resumed = new_state()
    resumed.restore(saved(state, tmp_path))
    assert (resumed.losses, resumed.epochs) == (state.losses, state.epochs)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    place = saved(train(new_state(trains="a"), 2), tmp_path)
    other = new_state(trains="b")
    with pytest.raises(DataError, match="belongs to adapter a, but this run trains adapter b"):
        other.restore(place)
    assert is_same(other, new_state())


@pytest.mark.parametrize("file", ["parameters.safetensors", "moments.safetensors", "progress.json"])
def test_a_changed_byte_is_noticed_before_anything_is_loaded(tmp_path: Path, file: str) -> None:
    place = saved(train(new_state(), 2), tmp_path)
    content = bytearray((place / file).read_bytes())
    content[-1] ^= 1
    (place / file).write_bytes(content)
    resumed = new_state()
    with pytest.raises(DataError, match=f"{file}: this file is missing or has changed"):
        resumed.restore(place)
    assert is_same(resumed, new_state())


def test_an_unfinished_checkpoint_is_refused(tmp_path: Path) -> None:
    place = saved(new_state(), tmp_path)
    (place / artifacts.MANIFEST).unlink()
    with pytest.raises(DataError, match="never finished"):
        new_state().restore(place)


def test_a_checkpoint_of_other_parameters_is_refused_by_name(tmp_path: Path) -> None:
    place = saved(new_state(width=3), tmp_path)
    other = new_state(width=5)
    with pytest.raises(DataError, match=r"'lora.A' is \(2, 3\) in the checkpoint and \(2, 5\) in this run"):
        other.restore(place)
    assert is_same(other, new_state(width=5))
