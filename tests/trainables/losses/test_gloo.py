"""The step over 2 and 4 real processes: loss and gradients of one dense autograd loss in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contrastive_toys import Toy, reference

pytestmark = pytest.mark.kernels

WORKER = Path(__file__).with_name("gloo_worker.py")
PROJECT = Path(__file__).parents[3]
EXACT = {"rtol": 0, "atol": 1e-10}

CLIP: dict[str, Any] = {"kind": "clip"}
CLASS: dict[str, Any] = {"kind": "multi_positive"}
SIGLIP: dict[str, Any] = {"kind": "siglip", "pair_weight": 0.3}
SOFT: dict[str, Any] = {"kind": "soft_target", "temperature": 0.4, "positives": "caption"}
SIMILAR: dict[str, Any] = {"kind": "soft_target", "temperature": 0.4}
PROMPT: dict[str, Any] = {"kind": "class_prompt"}
FINDINGS: dict[str, Any] = {"num_pairs": 13, "num_classes": 6, "num_findings": 4}
MIXED: dict[str, Any] = {"kind": "multi_positive", "pair_weight": 0.3, "positives": "caption"}
CURVE: dict[str, Any] = {"toy": {"num_pairs": 13, "num_captions": 6, "dropout": 0.2}, "loss": CLASS}


def steps(world_size: int) -> dict[str, dict[str, Any]]:
    """Returns name → case of a single step; the engine's answer is compared with the dense reference."""
    cases: dict[str, dict[str, Any]] = {}
    for loss_name, loss in {
        "clip": CLIP, "class": CLASS, "mixed": MIXED, "siglip": SIGLIP, "soft": SOFT, "similar": SIMILAR,
        "prompt": PROMPT,
    }.items():  # fmt: skip
        for micro_batch_size in (1, 3, 7, None) if world_size == 2 else (3, None):
            cases[f"{loss_name}, dropout, micro-batch {micro_batch_size}"] = {
                "toy": {"dropout": 0.3},
                "loss": loss,
                "micro_batch_size": micro_batch_size,
            }
        cases[f"{loss_name}, no dropout"] = {"loss": loss}
        cases[f"{loss_name}, 13 pairs: no multiple of anything"] = {"toy": {"num_pairs": 13}, "loss": loss}
        cases[f"{loss_name}, several findings"] = {
            "toy": {**FINDINGS, "texts_are_findings": loss is PROMPT},
            "loss": loss,
        }
        cases[f"{loss_name}, fewer pairs than ranks"] = {
            "toy": {"num_pairs": 3, "num_captions": 2},
            "loss": loss,
        }
    if world_size == 2:
        cases["5 and 11 images, 6 and 1 captions"] = {
            "loss": CLASS,
            "image_shares": [[0, 5], [5, 16]],
            "text_shares": [[0, 6], [6, 7]],
        }
        cases["all on one rank"] = {
            "loss": MIXED,
            "image_shares": [[0, 0], [0, 16]],
            "text_shares": [[0, 0], [0, 7]],
        }
    return {name: {"run": "one_step", **case} for name, case in cases.items()}


PHASES = ("image", "text", "gather", "normalisers", "positives", "gradients", "replay")
OTHERS: dict[str, dict[str, Any]] = {
    **{
        f"out of memory: {phase}": {
            "run": "out_of_memory",
            "phase": phase,
            "loss": CLASS,
            "toy": {"num_pairs": 15, "num_captions": 15, "dropout": 0.3},  # uneven shares: the gather copies
        }
        for phase in PHASES
    },
    "curve": {"run": "curve", **CURVE},
    "not a number": {"run": "not_a_number"},
    "failing rank": {"run": "failing_rank"},
    "scaled rank": {"run": "scaled_rank"},
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """World size → what each rank saw. Four processes in all; the first two serve both world sizes."""
    folder = tmp_path_factory.mktemp("gloo")
    for world_size in (2, 4):
        cases = {**steps(world_size), **OTHERS}
        (folder / f"cases-{world_size}.json").write_text(json.dumps(cases))
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "4", str(folder)],
            cwd=PROJECT,
            env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    return {
        world_size: [
            json.loads((folder / f"seen-{world_size}-{rank}.json").read_text()) for rank in range(world_size)
        ]
        for world_size in (2, 4)
    }


def expected(case: dict[str, Any]) -> tuple[float, torch.Tensor]:
    return reference(Toy.make(**case.get("toy", {})), **{"kind": "multi_positive", **case.get("loss", {})})


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_rank_gets_the_full_batch_gradient(seen: dict[int, Any], world_size: int) -> None:
    for name, case in steps(world_size).items():
        loss, gradients = expected(case)
        for rank in range(world_size):
            result = seen[world_size][rank][name]
            assert result["loss"] == pytest.approx(loss, abs=1e-10), (name, rank)
            actual = torch.tensor(result["gradients"], dtype=torch.float64)
            torch.testing.assert_close(
                actual, gradients, **EXACT, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_agree_to_the_last_bit(seen: dict[int, Any], world_size: int) -> None:
    for name in steps(world_size):
        assert all(rank[name] == seen[world_size][0][name] for rank in seen[world_size]), name


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_rank_whose_gradient_is_scaled_is_noticed(seen: dict[int, Any], world_size: int) -> None:
    _, gradients = expected(OTHERS["scaled rank"])
    actual = torch.tensor(seen[world_size][0]["scaled rank"]["gradients"], dtype=torch.float64)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(actual, gradients, **EXACT)


def test_ten_step_curve_is_the_same_for_every_cut(seen: dict[int, Any]) -> None:
    toy, losses = Toy.make(**CURVE["toy"]).to(torch.float32), []
    for step in range(10):
        other = Toy.make(**{**CURVE["toy"], "seed": step}).to(torch.float32)
        toy.image_inputs, toy.caption_inputs = other.image_inputs, other.caption_inputs
        toy.text_of_pair, toy.classes = other.text_of_pair, other.classes
        loss, gradients = reference(toy, "multi_positive")
        losses.append(loss)
        with torch.no_grad():
            for parameter, gradient in zip(
                toy.learned, gradients.split([p.numel() for p in toy.learned]), strict=True
            ):
                parameter -= 0.3 * gradient.view_as(parameter)
    for world_size in (2, 4):
        assert seen[world_size][0]["curve"]["losses"] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] != pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("world_size", [2, 4])
def test_memory_that_runs_out_on_one_rank_halves_the_micro_batch_on_all(
    seen: dict[int, Any], world_size: int, phase: str
) -> None:
    name = f"out of memory: {phase}"
    loss, gradients = expected(OTHERS[name])
    for rank in seen[world_size]:
        assert rank[name]["micro_batch_size"] == 1
        assert rank[name]["loss"] == pytest.approx(loss, abs=1e-10)
        actual = torch.tensor(rank[name]["gradients"], dtype=torch.float64)
        torch.testing.assert_close(actual, gradients, **EXACT)


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_loss_that_is_not_a_number_stops_all_ranks_together(seen: dict[int, Any], world_size: int) -> None:
    expected = {"error": "NonFiniteLoss", "has_gradients": False}
    assert [rank["not a number"] for rank in seen[world_size]] == [expected] * world_size


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_rank_that_fails_leaves_none_waiting(seen: dict[int, Any], world_size: int) -> None:
    errors = [rank["failing rank"]["error"] for rank in seen[world_size]]
    assert errors == ["PeerFailed", "ZeroDivisionError", *["PeerFailed"] * (world_size - 2)]
