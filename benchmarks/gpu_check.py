"""Ten minutes on a GPU: what only a GPU can show, line by line, each as a JSON row on standard output.

    python benchmarks/gpu_check.py --device cuda --out rows.jsonl
    python benchmarks/gpu_check.py --device cuda --quick          # three minutes
    python benchmarks/gpu_check.py --device cpu --small           # the same code in a minute, for tests

A row has `name`, `seconds`, `ok`, `bound` (what it must show, in words), `measured`, and `bounds` with each
limit; `skipped` names what cannot be measured here, `error` what ended the line. A line that fails does not
stop the others; the exit status is 1 if one failed. It needs no network, no Ray and no MLflow: encoders have
random weights, and images are phantoms.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from gpu_lines import curves, environment, losses, memory, processes, speed
from gpu_lines.row import Line, Settings
from torch import cuda, device

from trainables.launch import ALLOCATOR

LINES = (
    Line(
        "environment",
        "the GPUs that torch finds, and bfloat16 where they multiply it",
        environment.environment,
    ),
    Line(
        "losses",
        "float64 losses and gradients within 1e-10 of dense autograd; masks and adapters equal the CPU's",
        losses.losses,
    ),
    Line("curve", "losses within 1e-4 of the CPU's, however the batch is cut, TF32 off", curves.cpu_and_gpu),
    Line("memory", "peak memory less embeddings: largest over smallest batch at most 1.10", memory.any_batch),
    Line(
        "step_time",
        "at most 1.05 × gradient caching; bfloat16 at least 3 × float32; GPU busy at least 80 %",
        speed.steps,
    ),
    Line(
        "fine_tune", "images a second of a fine-tune beside the bare step's", speed.fine_tune, is_quick=False
    ),
    Line("bfloat16", "gradient cosine at least .99 of float32's, every loss within 2 %", curves.bfloat16),
    Line(
        "out_of_memory",
        "every part survives or is refused in one message; losses equal to 1e-6",
        memory.too_little,
    ),
    Line(
        "two_processes",
        "both end, each within its half of the GPU; together no slower than one alone",
        processes.two_at_once,
        is_quick=False,
    ),
    Line("process_group", "collectives work under torchrun; losses as alone", processes.process_groups),
)
CHILDREN = {"neighbour": processes.be_neighbour, "rank": processes.be_rank}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="cuda: the first GPU")
    parser.add_argument("--small", action="store_true", help="shapes that a CPU gets through in seconds")
    parser.add_argument("--quick", action="store_true", help="the most telling lines and sizes alone")
    parser.add_argument("--out", type=Path, metavar="FILE", help="writes the rows there too, one a line")
    parser.add_argument("--lines", nargs="+", metavar="NAME", choices=[line.name for line in LINES])
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the lines; returns 0 if all are fine, 1 if one failed, 2 if there is no such device."""
    for name, setting in ALLOCATOR.items():  # as for a trial; torch reads it when it first uses a GPU
        os.environ.setdefault(name, setting)
    arguments = parse(argv)
    if arguments.device == "cuda" and not cuda.is_available():
        print("gpu_check: torch finds no GPU here; use --device cpu --small", file=sys.stderr)
        return 2
    place = device("cuda", 0) if arguments.device == "cuda" else device("cpu")
    settings = Settings(place, is_small=arguments.small, is_quick=arguments.quick)
    if arguments.child:
        CHILDREN[arguments.child](settings)
        return 0
    rows, is_fine = "", True
    for line in LINES:
        if line.name not in (arguments.lines or [line.name]) or (settings.is_quick and not line.is_quick):
            continue
        row = line.run(settings)
        is_fine = is_fine and row["ok"]
        rows += json.dumps(row, ensure_ascii=False) + "\n"
        print(rows.splitlines()[-1], flush=True)
        if arguments.out:
            arguments.out.write_text(rows, encoding="utf-8")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
