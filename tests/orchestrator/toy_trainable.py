"""Trainables without models or data, for tests of what runs them. Workers find it by PYTHONPATH."""

import os
import signal
import time
from pathlib import Path

from trainables.config import TrialConfig
from trainables.context import RunContext
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.losses.global_batch import NonFiniteLoss

OBJECTIVE = "val/probe_joint/macro_auroc"


def score_of(config: TrialConfig) -> float:
    return 0.5 + 0.01 * config.lora.rank if "lora" in config.adapt.method else 0.5


def toy(config: TrialConfig, context: RunContext) -> dict[str, float]:
    """Scores by rank; what goes wrong, and how, is told by the learning rate and the rank."""
    with (context.store / "calls.txt").open("a") as file:
        file.write(f"{os.getpid()} {config.adapt.method} {config.lora.rank}\n")
    print("a trainable that prints")
    if "lora" not in config.adapt.method:
        (context.workdir / "results").mkdir(parents=True, exist_ok=True)
        return {OBJECTIVE: 0.5}
    for epoch in range(1, config.num_epochs + 1):
        fail(config.lora.rank)
        context.report(
            {"train/epoch": epoch, "train/loss": 1 / epoch, OBJECTIVE: score_of(config) * epoch / 10}
        )
    (context.workdir / "results").mkdir(parents=True, exist_ok=True)
    (context.workdir / "results" / "confusion.json").write_text("{}")
    return {OBJECTIVE: score_of(config), "train/loss": 0.1, "perf/undefined": float("nan")}


def fail(rank: int) -> None:
    """Ranks from 100 on are failures."""
    match rank:
        case 101:
            raise ConfigError("target modules match nothing")
        case 102:
            raise NonFiniteLoss("loss is nan at step 3")
        case 103:
            raise MemoryError("no room")
        case 104:
            raise KeyError("a bug")
        case 105:
            os.kill(os.getpid(), signal.SIGKILL)
        case 106:
            raise WeightsUnavailable("no weights here")
        case _:
            pass


def slow(config: TrialConfig, context: RunContext) -> dict[str, float]:
    """Takes ten minutes, in short epochs."""
    for epoch in range(1, 6000):
        context.report({"train/epoch": epoch, "train/loss": 1.0})
        (context.store / "running.txt").write_text(str(os.getpid()))
        time.sleep(0.1)
    return {OBJECTIVE: 0.5}


def walk(config: TrialConfig, context: RunContext) -> dict[str, float]:
    """A random walk with a checkpoint per epoch: each value depends on all before it.

    What goes wrong, and how, is told by the LoRA rank: see `mishap`. Of several workers the last one dies and
    the first one writes.
    """
    import torch

    from trainables.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

    if "lora" not in config.adapt.method:
        return {OBJECTIVE: 0.5}
    tensors, epochs = {"place": torch.zeros(1), "padding": torch.zeros(PADDING)}, []
    if context.resume_from:
        found = read_checkpoint(context.resume_from, tensors, trains=context.workdir.name)
        tensors, epochs = dict(found.parameters), found.progress["epochs"]
    for epoch in epochs:
        context.report(epoch)
    for epoch in range(len(epochs) + 1, config.num_epochs + 1):
        if context.rank == 0:
            with (context.store / "epochs.txt").open("a") as file:
                file.write(f"{context.workdir.name} {epoch}\n")
        if context.rank == context.world_size - 1:
            (context.store / "last_rank.pid").write_text(str(os.getpid()))
            mishap(config.lora.rank, epoch, context)
        random_numbers = torch.Generator().manual_seed(1000 * config.lora.rank + epoch)
        tensors["place"] = tensors["place"] + torch.randn(1, generator=random_numbers)
        epochs.append({"train/epoch": float(epoch), "train/loss": float(tensors["place"])})
        progress = {"step": epoch, "epochs": epochs}
        if context.rank == 0:
            checkpoint = Checkpoint(tensors, {}, progress, context.workdir.name)
            write_checkpoint(context.workdir / "checkpoints", checkpoint)
        context.report(epochs[-1])
        time.sleep(0.1)
    if context.rank == 0:
        (context.workdir / "results").mkdir(exist_ok=True)
        (context.workdir / "results" / "place.json").write_text(str(float(tensors["place"])))
    return {OBJECTIVE: score_of(config), "train/loss": float(tensors["place"])}


PADDING = 2**18
"""Numbers that make each checkpoint a megabyte, so that a disk can be too full for it."""


def mishap(rank: int, epoch: int, context: RunContext) -> None:
    """107 dies at each attempt's first new epoch; the others in the third epoch of the first attempt.

    105 dies, 108 and 109 after damaging the newest checkpoint or all of them, 110 while it writes one, 112
    takes its driver with it then; 111 fills the disk, 106 takes Ray's node with it.
    """
    from trainables.training import checkpoint

    places = checkpoint.newest_first(context.workdir / "checkpoints")
    if rank != 107 and (epoch != 3 or context.resume_from):
        return
    match rank:
        case 105 | 107:
            os.kill(os.getpid(), signal.SIGKILL)
        case 108 | 109:
            for place in places[: 1 if rank == 108 else None]:
                content = bytearray((place / "parameters.safetensors").read_bytes())
                content[-1] ^= 1
                (place / "parameters.safetensors").write_bytes(content)
            os.kill(os.getpid(), signal.SIGKILL)
        case 110 | 112:

            def half(tensors: object, path: Path) -> None:
                Path(path).write_bytes(b"half a file")
                if rank == 112:
                    os.kill(int((context.store / "driver.pid").read_text()), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

            checkpoint.save_file = half
        case 111:
            free = os.statvfs(context.store)
            left = free.f_bavail * free.f_frsize - 600_000
            (context.store / "ballast").write_bytes(bytes(left))
        case 106:
            os.kill(int(os.environ["RAY_RAYLET_PID"]), signal.SIGKILL)
            time.sleep(60)
        case _:
            pass


def reduced(config: TrialConfig, context: RunContext) -> dict[str, float]:
    """Every rank adds its own: what comes back shows that all took part."""
    import torch
    import torch.distributed as dist

    total = torch.tensor([float(context.rank + 1)])
    dist.all_reduce(total)
    pids = [None] * context.world_size
    dist.all_gather_object(pids, os.getpid())
    context.report({"train/epoch": 1, "train/loss": float(total)})
    if config.lora.rank == 101 and context.rank == 1:
        raise ConfigError("rank 1 cannot go on")
    if config.lora.rank == 101:
        dist.all_reduce(total)  # waits for rank 1 for ever
    (context.workdir / f"rank-{context.rank}.txt").write_text(f"{os.getpid()} {torch.get_num_threads()}")
    sockets = context.workdir / "sockets"
    if context.rank == 0:
        Path(sockets).write_text("\n".join(Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "tcp6")))
    return {
        OBJECTIVE: 0.5 if context.rank == 0 else 0.0,
        "perf/total": float(total),
        "perf/num_pids": len(set(pids)),
    }


def real_finetune(config: TrialConfig, context: RunContext) -> dict[str, float]:
    """The real fine-tune in float64. On seed 1 the last of several ranks doubles its gradient: a defect."""
    if "lora" not in config.adapt.method:
        return toy(config, context)
    import torch

    from trainables.losses import global_batch
    from trainables.training.loop import train_adapter
    from trainables.training.trial_setup import set_up_trial

    sum_over_ranks = global_batch.FlatGradients.sum_over_ranks
    if config.seed == 1 and context.rank == context.world_size - 1 > 0:

        def scaled(self, *arguments, **keywords):
            for buffer in self._buffers:
                buffer.mul_(2)
            return sum_over_ranks(self, *arguments, **keywords)

        global_batch.FlatGradients.sum_over_ranks = scaled
    setup = set_up_trial(config, context)
    setup.encoder.double().dtype = torch.float64
    before = {name: p.detach().clone() for name, p in setup.adaptation.parameters.items()}
    train_adapter(setup, config, context)
    global_batch.FlatGradients.sum_over_ranks = sum_over_ranks
    moved = sum(not torch.equal(p, before[name]) for name, p in setup.adaptation.parameters.items())
    (context.workdir / f"rank-{context.rank}.txt").write_text(f"{os.getpid()} {moved}")
    (context.workdir / "results").mkdir(parents=True, exist_ok=True)
    return {OBJECTIVE: 0.5, "perf/num_parameters": float(len(before))}
