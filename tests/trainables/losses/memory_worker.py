"""One step of B pairs in a fresh process: prints its peak of resident memory, in bytes, above the start.

python memory_worker.py BATCH MICRO_BATCH
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import LossConfig
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.global_batch import global_batch_step

DIMENSION, WIDTH, DEPTH = 32, 32_768, 12


class Wide(nn.Module):
    """Cheap to compute, dear to remember: a row's graph holds DEPTH × WIDTH numbers, 1.5 MiB."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs
        self.first = nn.Parameter(torch.randn(8, WIDTH) / 8)
        self.last = nn.Parameter(torch.randn(WIDTH, DIMENSION) / WIDTH**0.5)

    def encode(self, rows: range) -> Tensor:
        hidden = self.inputs[rows.start : rows.stop] @ self.first
        for _ in range(DEPTH):
            hidden = hidden.sigmoid()
        return F.normalize(hidden @ self.last, dim=1)


class Pairs:
    trains_images = trains_texts = True

    def __init__(self, num_pairs: int) -> None:
        self.images, self.texts = (Wide(torch.randn(num_pairs, 8)) for _ in range(2))
        self.encode_images, self.encode_texts = self.images.encode, self.texts.encode
        self.parameters = [*self.images.parameters(), *self.texts.parameters()]


def take(pairs: Pairs, num_pairs: int, micro_batch_size: int) -> None:
    everyone = torch.arange(num_pairs)
    global_batch_step(
        pairs,
        BatchPlan(everyone, everyone),
        LossConfig(kind="clip"),
        log_logit_scale=torch.tensor(2.0),
        parameters=pairs.parameters,
        micro_batch_size=micro_batch_size,
    )


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    num_pairs, micro_batch_size = int(sys.argv[1]), int(sys.argv[2])
    take(Pairs(2), 2, 1)  # libraries take their workspace here
    pairs = Pairs(num_pairs)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    take(pairs, num_pairs, micro_batch_size)
    print(resident("VmHWM") - before)
