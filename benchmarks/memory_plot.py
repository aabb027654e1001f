"""Draws the memory of `global_batch.py` over the batch size, from its JSON; nothing is extrapolated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CARD_GIB = 8
LABELS = {
    "plain": "whole batch in one graph",
    "open_clip": "open_clip, accumulation",
    "sentence_transformers": "sentence-transformers, cached",
    "gradient_caching": "gradient caching (2021)",
    "ours": "this project",
    "ours_bfloat16": "this project, bfloat16 base",
}


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes a picture: peak of a step plus the weights, in GiB, over B, a line for each contender.

    Raises:
        SystemExit: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit("--plot needs matplotlib: pip install 'clip-orchestrator[bench]'") from error
    measured = [row for row in result["memory_over_batch"] if "mib" in row]
    if not measured:
        raise SystemExit("--plot: the result has no memory figures; measure some with --memory-batches")
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for name in dict.fromkeys(row["contender"] for row in measured):
        rows = [row for row in measured if row["contender"] == name]
        gib = [(row["mib"] + row["weights_mib"]) / 1024 for row in rows]
        is_ours = name.startswith("ours")
        axes.plot(
            [row["batch"] for row in rows],
            gib,
            marker="o",
            markersize=4,
            linewidth=2.4 if is_ours else 1.4,
            zorder=3 if is_ours else 2,
            label=f"{LABELS.get(name, name)}{_where_it_ended(result, name)}",
        )
    axes.axhline(CARD_GIB, color="0.35", linestyle="--", linewidth=1)
    axes.annotate(
        "8 GB: the original study stopped at B = 80",
        (0.01, CARD_GIB),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
        color="0.35",
    )
    batches = sorted({row["batch"] for row in measured})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("pairs in the batch, B")
    axes.set_ylabel("weights + peak of one step, GiB")
    settings = result["settings"]
    axes.set_title(
        f"{settings['model']}, LoRA, micro-batch {settings['micro_batch']}, {settings['tokens']} tokens, "
        f"CPU, {result['date']}",
        fontsize=9,
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    with rc_context({"svg.hashsalt": "memory"}):  # the same numbers give the same file
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _where_it_ended(result: dict[str, Any], name: str) -> str:
    skipped = [r["batch"] for r in result["memory_over_batch"] if r["contender"] == name and "skipped" in r]
    return f" (B = {min(skipped)} did not fit)" if skipped else ""
