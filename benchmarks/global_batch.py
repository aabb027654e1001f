"""The gradient of one step of contrastive LoRA fine-tuning: this project and its peers in one run.

    python benchmarks/global_batch.py --model vit-b-32 --batch 128 --micro-batch 8 --output step.json
    python benchmarks/global_batch.py --model tiny --micro-batch 96 --no-time --memory-batches 128 1024 8192

One step is forward, loss and backward; there is no optimiser. All contenders share the weights, the adapters
and the batch on the host: uint8 grey images and token ids, no floats (`clip_step.Batch`); each forward pass
normalises its own pixels. `clip_step` says what each contender does.

Time is processor time of all threads, on a GPU wall time. The contenders take turns within a round in one
process after a warm-up; what counts is the ratio within a round, its median, and order statistics that
enclose that median with at least 95 % (none for fewer than six rounds). Memory is the high-water mark of the
resident set, on a GPU of what tensors take, above what it was just before the step, in a fresh process for
each figure, whose allocator returns freed blocks at once: weights, host inputs and libraries are left out,
the adapters' gradients are in. A step that does not fit the machine is skipped with a note. The largest
gradient difference from `plain` is taken without dropout, on a few pairs with an uneven tail, to show that
all compute the same thing.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from clip_step import CONTENDERS, Batch, Dropout, DropoutSwitch, Step, counted_rows
from measure import (
    MIB,
    available_mib,
    in_fresh_process,
    limited_memory,
    peak_mib,
    provenance,
    ratio,
    seconds_of,
    write,
)
from random_encoders import CONFIGS, build_encoder

from trainables.models.adapters.precision import store_frozen_in_bfloat16

PACKAGES = ("torch", "transformers", "peft", "open_clip_torch", "sentence-transformers")
MMAP_THRESHOLD = 65536
"""glibc gives freed blocks from here on back at once. Left alone it raises the threshold to 32 MiB and keeps
holes: the tiny step with micro-batches of 64 then took 242 MiB at B = 128 and 281 at 1024, not 147 twice."""
RESERVE_MIB = 1024
"""What the machine keeps when a step is tried that may not fit."""
CHECKED_PAIRS, CHECKED_MICRO_BATCH = 8, 3
Row = dict[str, Any]


class Bench:
    """The encoder and its contenders, ready to take a step."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        encoder, parameters = build_encoder(
            arguments.model, dropout=arguments.dropout, seed=arguments.seed, device=arguments.device
        )
        self.arguments = arguments
        self.encoder, self.parameters = encoder, parameters
        self.dropouts = [DropoutSwitch(encoder)]
        if "ours_bfloat16" in arguments.contenders:
            self.bfloat16 = copy.deepcopy(encoder)
            store_frozen_in_bfloat16(self.bfloat16)
            self.dropouts.append(DropoutSwitch(self.bfloat16))

    def set_dropout(self, kind: Dropout) -> None:
        """Gives every encoder here this kind of dropout."""
        for dropout in self.dropouts:
            dropout.turn_to(kind)

    def step(self, contender: str, batch: Batch, *, micro_batch: int | None = None) -> Step:
        """Returns the step of a contender, ready to be taken."""
        encoder, parameters = self.encoder, self.parameters
        if contender == "ours_bfloat16":
            encoder = self.bfloat16
            parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        return Step(
            encoder,
            parameters,
            batch,
            micro_batch_size=micro_batch or self.arguments.micro_batch,
            kept_graphs=self.arguments.kept_graphs,
            seed=self.arguments.seed,
        )

    def batch(self, pairs: int) -> Batch:
        """Draws a batch with as many distinct captions as asked for."""
        captions = min(self.arguments.captions or pairs, pairs)
        return Batch.random(
            self.encoder,
            pairs=pairs,
            captions=captions,
            tokens=self.arguments.tokens,
            seed=self.arguments.seed,
        )


def take(contender: str, step: Step) -> float:
    """Takes one step from a clean slate and returns its seconds."""
    for parameter in step.parameters:
        parameter.grad = None
    gc.collect()
    return seconds_of(lambda: CONTENDERS[contender].take(step), step.device)


def gradient_differences(bench: Bench, contenders: list[str]) -> dict[str, float]:
    """Returns each contender's largest difference from plain, as a share of plain's largest gradient."""
    bench.set_dropout("none")
    batch = bench.batch(CHECKED_PAIRS)

    def gradient(contender: str) -> torch.Tensor:
        step = bench.step(contender, batch, micro_batch=CHECKED_MICRO_BATCH)
        take(contender, step)
        gradients = [p.grad for p in step.parameters if p.grad is not None]
        assert len(gradients) == len(step.parameters), f"{contender} leaves a parameter without gradient"
        return torch.cat([gradient.float().flatten() for gradient in gradients])

    expected = gradient("plain")
    return {
        name: float((gradient(name) - expected).abs().max() / expected.abs().max()) for name in contenders
    }


def timed_rounds(bench: Bench, contenders: list[str]) -> tuple[list[dict[str, float]], dict[str, Row]]:
    """Returns the seconds of every contender in every round, and the rows that its towers encoded."""
    batch = bench.batch(bench.arguments.batch)
    steps = {name: bench.step(name, batch) for name in contenders}

    def turn(name: str) -> float:
        bench.set_dropout(CONTENDERS[name].dropout)
        return take(name, steps[name])

    forwards: dict[str, Row] = {}
    for name in contenders:  # the warm-up
        with counted_rows(steps[name].encoder) as rows:
            turn(name)
        forwards[name] = {tower: count / len(batch) for tower, count in rows.items()}
    rounds: list[dict[str, float]] = []
    for number in range(bench.arguments.rounds):
        start = number % len(contenders)  # no contender always follows the same one
        order = contenders[start:] + contenders[:start]
        seconds = {name: turn(name) for name in order}
        rounds.append({name: round(seconds[name], 4) for name in contenders})
        print(f"round {number + 1} of {bench.arguments.rounds}: {rounds[-1]}", file=sys.stderr, flush=True)
    return rounds, forwards


def memory(arguments: argparse.Namespace) -> Row:
    """Returns the extra MiB of one step, or why there are none; call in a fresh process."""
    name = arguments.memory_of
    bench = Bench(arguments)
    bench.set_dropout(CONTENDERS[name].dropout)
    take(name, bench.step(name, bench.batch(2)))  # libraries take their workspace here
    batch = bench.batch(arguments.batch)
    step = bench.step(name, batch)
    for parameter in step.parameters:
        parameter.grad = None
    weights = sum(t.nbytes for t in (*step.encoder.parameters(), *step.encoder.buffers()))
    row: Row = {"contender": name, "batch": len(batch), "weights_mib": round(weights / MIB, 1)}
    row["host_inputs_mib"] = round(batch.num_bytes / MIB, 1)
    # I, T and their gradients in float32: all that must grow with B.
    row["embeddings_mib"] = round(4 * len(batch) * bench.encoder.joint_dim * 4 / MIB, 1)
    try:
        limit = arguments.memory_limit or available_mib(step.device) - RESERVE_MIB
        with limited_memory(limit, step.device):
            return row | {"mib": round(peak_mib(lambda: CONTENDERS[name].take(step), step.device), 1)}
    except MemoryError as error:
        return row | {"skipped": str(error)}


def allocator(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns what the memory processes' environment says to glibc."""
    return {} if arguments.default_allocator else {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD)}


def memory_rows(arguments: argparse.Namespace, contenders: list[str], argv: list[str]) -> list[Row]:
    """Measures every contender at every batch size; one that did not fit is not tried with more."""
    rows: list[Row] = []
    for batch in sorted(set(arguments.memory_batches)):
        for name in contenders:
            too_large = next((r for r in rows if r["contender"] == name and "skipped" in r), None)
            if too_large:
                rows.append({"contender": name, "batch": batch, "skipped": too_large["skipped"]})
            else:
                child = [*argv, "--memory-of", name, "--batch", str(batch)]
                rows.append(in_fresh_process(__file__, child, **allocator(arguments)))
            row = rows[-1]
            print(f"B = {batch}, {name}: {row.get('mib', row.get('skipped'))}", file=sys.stderr, flush=True)
    return rows


def summary(
    arguments: argparse.Namespace,
    differences: dict[str, float],
    rounds: list[dict[str, float]],
    forwards: dict[str, Row],
    memories: list[Row],
) -> list[Row]:
    """Returns a row a contender: how it was cut, and its figures at `--batch`."""
    rows: list[Row] = []
    for name in arguments.contenders:
        contender = CONTENDERS[name]
        if not contender.is_installed:
            rows.append({"contender": name, "status": "not installed"})
            continue
        row: Row = {
            "contender": name,
            "status": "measured",
            "micro_batch_size": arguments.micro_batch if contender.micro_batches else None,
            "kept_graphs": arguments.kept_graphs if contender.keeps_graphs else None,
            "max_relative_gradient_difference": differences[name],
        }
        here = [m for m in memories if m["contender"] == name and m["batch"] == arguments.batch]
        row |= {key: m[key] for m in here for key in ("mib", "skipped") if key in m}
        if rounds:
            row["forwards_per_pair"] = forwards[name]
            median = statistics.median(r[name] for r in rounds)
            row["cpu_seconds_per_pair"] = round(median / arguments.batch, 5)
            row["time_over_plain"] = (
                ratio([r[name] / r["plain"] for r in rounds]) if "plain" in rounds[0] else None
            )
            row["ours_over_this"] = (
                ratio([r["ours"] / r[name] for r in rounds]) if "ours" in rounds[0] else None
            )
        rows.append(row)
    return rows


def print_table(rows: list[Row]) -> None:
    """Prints what a reader compares; intervals are in brackets."""
    columns = ("m", "g", "fwd image", "fwd text", "MiB", "CPU s/pair", "× plain", "ours / it", "Δg")
    widths = (4, 4, 10, 9, 9, 11, 22, 22, 9)
    heading = "".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
    print(f"{'contender':<22}{heading}")
    for row in rows:
        if row["status"] != "measured":
            print(f"{row['contender']:<22}  {row['status']}")
            continue
        forwards = row.get("forwards_per_pair", {})
        values = (
            row["micro_batch_size"] or "-",
            row["kept_graphs"] or "-",
            *(f"{forwards[tower]:.3g}" if tower in forwards else "-" for tower in ("image", "text")),
            row.get("mib", "too much" if "skipped" in row else "-"),
            row.get("cpu_seconds_per_pair", "-"),
            _shown(row.get("time_over_plain")),
            _shown(row.get("ours_over_this")),
            f"{row['max_relative_gradient_difference']:.1e}",
        )
        cells = "".join(f"{value!s:>{width}}" for value, width in zip(values, widths, strict=True))
        print(f"{row['contender']:<22}{cells}")


def _shown(value: Row | None) -> str:
    if value is None:
        return "-"
    interval = value["interval"]
    return f"{value['median']:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(CONFIGS), default="tiny", help="random weights")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=32, help="pairs")
    parser.add_argument("--micro-batch", type=int, default=8, help="pairs per forward of all but plain")
    parser.add_argument("--kept-graphs", type=int, default=1, help="of ours")
    parser.add_argument("--tokens", type=int, default=24, help="of each caption, at most 77")
    parser.add_argument("--captions", type=int, help="distinct ones; default: as many as pairs")
    parser.add_argument("--dropout", type=float, default=0.1, help="of the adapters")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16 adds the contender ours_bfloat16; all others stay in float32",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-time", action="store_true", help="memory and gradients only")
    parser.add_argument("--no-memory", action="store_true", help="time and gradients only")
    parser.add_argument("--memory-batches", type=int, nargs="+", help="batch sizes; default: --batch")
    parser.add_argument("--memory-limit", type=float, help="MiB of a step; default: what is free, less 1 GiB")
    parser.add_argument(
        "--default-allocator",
        action="store_true",
        help="memory with glibc's holes: what a process really takes",
    )
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--plot", type=Path, help="SVG or PNG of memory over batch size")
    parser.add_argument(
        "--plot-from", type=Path, nargs="+", metavar="JSON", help="draws stored results, measures nothing"
    )
    parser.add_argument("--memory-of", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.contenders is None:
        arguments.contenders = [name for name in CONTENDERS if name != "ours_bfloat16"]
    if arguments.precision == "bfloat16" and "ours_bfloat16" not in arguments.contenders:
        arguments.contenders.append("ours_bfloat16")
    if not 2 <= arguments.tokens <= 77:
        parser.error(f"--tokens {arguments.tokens}: CLIP reads 2 to 77")
    if arguments.plot_from and not arguments.plot:
        parser.error("--plot-from: name the picture with --plot FILE.svg")
    arguments.memory_batches = [] if arguments.no_memory else arguments.memory_batches or [arguments.batch]
    return arguments


def measure_all(arguments: argparse.Namespace, argv: list[str]) -> Row:
    """Measures gradients, time and memory, in this order, and returns the result."""
    here = [name for name in arguments.contenders if CONTENDERS[name].is_installed]
    bench = Bench(arguments)
    differences = gradient_differences(bench, here)
    rounds, forwards = ([], {}) if arguments.no_time or not here else timed_rounds(bench, here)
    num_parameters = sum(parameter.numel() for parameter in bench.parameters)
    del bench  # the fresh processes may need its memory
    gc.collect()
    memories = memory_rows(arguments, here, argv)
    keys = (
        "model",
        "batch",
        "micro_batch",
        "kept_graphs",
        "tokens",
        "captions",
        "dropout",
        "threads",
        "seed",
    )
    settings = {key: getattr(arguments, key) for key in keys}
    return provenance(__file__, argv, PACKAGES) | {
        "settings": settings if arguments.device.type == "cpu" else {"device": "cuda", **settings},
        "num_trainable": num_parameters,
        "interval": "order statistics that enclose the median with at least 95 %; none below six rounds",
        "rows": summary(arguments, differences, rounds, forwards, memories),
        "cpu_seconds": rounds,
        "memory_environment": allocator(arguments),
        "memory_over_batch": memories,
    }


def stored(paths: list[Path]) -> Row:
    """Returns results whose memory was measured in several runs as one.

    Raises:
        SystemExit: they were not measured alike.
    """
    results: list[Row] = [json.loads(path.read_text()) for path in paths]
    for result, path in zip(results, paths, strict=True):
        if result["settings"] != results[0]["settings"]:
            raise SystemExit(f"{path}: other settings than {paths[0]}")
    rows = [row for result in results for row in result["memory_over_batch"]]
    return results[0] | {"memory_over_batch": rows}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(memory(arguments)))
        return
    if arguments.plot_from:
        from memory_plot import draw

        draw(stored(arguments.plot_from), arguments.plot)
        return
    result = measure_all(arguments, argv)
    print_table(result["rows"])
    write(result, arguments.output)
    if arguments.plot:
        from memory_plot import draw

        draw(result, arguments.plot)


if __name__ == "__main__":
    main()
