"""Time and memory of `data check`.

    python benchmarks/data_check.py audit   # compares all pairs of 110,000 made-up hashes
    python benchmarks/data_check.py check   # runs the command on 20,000 phantoms, written as PNG files

Both plant copies, and fail if one of them is missed. The speed depends on the distances between the hashes.
Those of the made-up hashes are spread as those of real radiographs are: mean 175 bits, standard deviation 32
(xray3 and nih_mini).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measure import MIB, in_fresh_process, peak_mib, provenance, seconds_of, write
from PIL import Image

from trainables.config import DataConfig, PhantomConfig
from trainables.data.datasets import load_dataset
from trainables.scoring.duplicates import MAX_HAMMING, look_alikes

SEED = 0
FLIPPED = (0.08, 0.36)
"""Least and largest share of the bits in which a hash differs from the one that all are made of."""
NUM_BITS = 512
NUM_PAIRS, NUM_MISSES, NUM_EQUAL = 500, 100, 2000
"""Planted: copies at 0 to 24 bits, images at 25 bits, which are no copies, and one group of equal images."""
PACKAGES = ["numpy", "scipy", "pillow", "pyarrow"]


def made_up_hashes(num_images: int, rng: np.random.Generator) -> tuple[np.ndarray, set[frozenset[int]]]:
    """Returns hashes uint64 [N, 8], and the planted groups of images that look alike."""
    base = rng.integers(0, 2, NUM_BITS, dtype=np.uint8)
    hashes = np.empty((num_images, 8), np.uint64)
    for rows in np.array_split(np.arange(num_images), max(1, num_images // 5000)):
        shares = rng.uniform(*FLIPPED, (len(rows), 1))
        bits = base ^ (rng.random((len(rows), NUM_BITS), dtype=np.float32) < shares)
        hashes[rows] = np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64)
    places = rng.permutation(num_images)
    equal, rest = places[:NUM_EQUAL], places[NUM_EQUAL:]
    hashes[equal] = hashes[equal[0]]
    planted = {frozenset(equal.tolist())}
    for number in range(NUM_PAIRS + NUM_MISSES):
        one, other = rest[2 * number : 2 * number + 2].tolist()
        num_flips = number % (MAX_HAMMING + 1) if number < NUM_PAIRS else MAX_HAMMING + 1
        changed = np.zeros(NUM_BITS, np.uint8)
        changed[rng.choice(NUM_BITS, num_flips, replace=False)] = 1
        hashes[other] = hashes[one] ^ np.packbits(changed).view(np.uint64)
        if number < NUM_PAIRS:
            planted.add(frozenset((one, other)))
    return hashes, planted


def measure_audit(options: argparse.Namespace) -> dict[str, Any]:
    """Compares all pairs of made-up hashes, in this process."""
    hashes, planted = made_up_hashes(options.num_images, np.random.default_rng(options.seed))
    found: set[frozenset[int]] = set()
    seconds: dict[str, float] = {}

    def compare() -> None:
        began = time.perf_counter()
        seconds["processor_seconds"] = seconds_of(
            lambda: found.update(frozenset(group.tolist()) for group in look_alikes(hashes))
        )
        seconds["seconds"] = time.perf_counter() - began

    rise = peak_mib(compare)
    return {
        "num_images": options.num_images,
        "num_pairs": options.num_images * (options.num_images - 1) // 2,
        **{name: round(value, 3) for name, value in sorted(seconds.items())},
        "peak_mib_above_hashes": round(rise, 1),
        "planted": len(planted),
        "missed": len(planted - found),
        "others": len(found - planted),
    }


def write_phantoms(root: Path, num_images: int, seed: int) -> tuple[str, str]:
    """Writes phantoms as PNG files of 128 px with a manifest.

    Returns the files of the inverted image and of the image that has a copy.
    """
    parts = {"num_val": num_images // 10, "num_test": num_images // 5}
    spec = PhantomConfig(num_train=num_images - sum(parts.values()) - 1, **parts)
    dataset = load_dataset(DataConfig(phantom=spec, seed=seed), with_test_labels=True)
    records = dataset.records
    inverted, original = next(r.image_id for r in records), records[len(records) // 2].image_id

    def save(record: Any) -> None:
        image = dataset.decode(record)
        pixels = 255 - image if record.image_id == inverted else image
        Image.fromarray(pixels).save(root / f"{record.image_id}.png", compress_level=1)
        if record.image_id == original:
            Image.fromarray(image).resize((100, 100)).save(root / "copy.jpg")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(save, records))
    with (root / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient_id", "split"])
        for i, record in enumerate(records):
            table.writerow([f"{record.image_id}.png", dataset.class_of(i), record.patient_id, record.split])
        table.writerow(["copy.jpg", dataset.classes[0], "another patient", "test"])
    return f"{inverted}.png", f"{original}.png"


def measure_check(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs the command twice in fresh processes: the first one decodes, the second one finds the survey."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "phantoms")
        root.mkdir()
        inverted, original = write_phantoms(root, options.num_images, options.seed)
        for what in ("first", "again"):
            command = [sys.executable, "-m", "orchestrator", "data", "check", "--json"]
            command += ["--set", "data.dataset=manifest", "--set", f"data.root={root}"]
            began = time.perf_counter()
            with Path(folder, "found.json").open("w") as file:
                environment = os.environ | {"CLIP_ORCHESTRATOR_HOME": str(Path(folder, "home"))}
                process = subprocess.Popen(command, stdout=file, env=environment)
                _, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - began
            found = json.loads(Path(folder, "found.json").read_text())
            rows.append(
                {
                    "num_images": found["num_images"],
                    "what": what,
                    "seconds": round(seconds, 3),
                    "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
                    "peak_mib": round(used.ru_maxrss * 1024 / MIB),
                    "exit_code": process.returncode,
                    "page_mib": round(Path(found["page"]).stat().st_size / MIB, 2),
                    "finds_the_copy": ["copy.jpg", original] in [group["files"] for group in found["copies"]],
                    "finds_the_negative": found["inverted_images"] == [inverted],
                }
            )
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("audit", "check"))
    parser.add_argument("--num-images", type=int, help="default: 110,000 hashes, or 20,000 phantoms")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.num_images = options.num_images or {"audit": 110_000, "check": 20_000}[options.part]
    if options.here:
        print(json.dumps(measure_audit(options)))
        return
    if options.part == "audit":
        arguments = ["audit", "--here", "--num-images", str(options.num_images), "--seed", str(options.seed)]
        rows = [in_fresh_process(__file__, arguments)]
        has_all = rows[0]["missed"] == 0
    else:
        rows = measure_check(options)
        has_all = all(row["finds_the_copy"] and row["finds_the_negative"] for row in rows)
    given = sys.argv[1:] if argv is None else argv
    result = provenance(__file__, given, PACKAGES) | {"seed": options.seed, "rows": rows}
    write(result, options.output)
    if not has_all:
        raise SystemExit("a planted image was missed")


if __name__ == "__main__":
    main()
