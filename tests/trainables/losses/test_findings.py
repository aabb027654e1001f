"""The losses with several findings per image, against dense sums over all pairs, with unknown labels."""

from __future__ import annotations

import math

import pytest
import torch
from contrastive_toys import Toy, jaccard, reference

from trainables.config import LossConfig, LossKind
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.global_batch import StepResult, global_batch_step
from trainables.losses.similarity import Jaccard

pytestmark = pytest.mark.kernels

EXACT = {"rtol": 0, "atol": 1e-10}  # float64: rounding only
CONTRASTIVE = [
    LossConfig(kind="clip"),
    LossConfig(kind="multi_positive", pair_weight=0.3),
    LossConfig(kind="siglip", pair_weight=0.3),
    LossConfig(kind="soft_target", temperature=0.3),
    LossConfig(kind="soft_target", temperature=0.05, pair_weight=0.3),
]
IDS = [f"{loss.kind}-{loss.pair_weight}" for loss in CONTRASTIVE]


def plan_of(toy: Toy, positives: str = "class") -> BatchPlan:
    return BatchPlan(
        toy.text_of_pair, toy.groups(positives), num_texts=len(toy.caption_inputs), labels=toy.labels
    )


def step(toy: Toy, loss: LossConfig, *, micro_batch_size: int | None, tile_size: int) -> StepResult:
    return global_batch_step(
        toy,
        plan_of(toy, loss.positives),
        loss,
        log_logit_scale=toy.log_logit_scale,
        logit_bias=toy.logit_bias,
        parameters=toy.parameters,
        micro_batch_size=micro_batch_size,
        tile_size=tile_size,
    )


def dense(toy: Toy, loss: LossConfig) -> tuple[float, torch.Tensor]:
    return reference(toy, loss.kind, pair_weight=loss.pair_weight, temperature=loss.temperature)


@pytest.mark.parametrize("loss", CONTRASTIVE, ids=IDS)
@pytest.mark.parametrize(("micro_batch_size", "tile_size"), [(3, 1), (7, 4), (None, 5), (None, 512)])
def test_loss_and_gradient_equal_dense_sums(
    loss: LossConfig, micro_batch_size: int | None, tile_size: int
) -> None:
    toy = Toy.make(num_pairs=23, num_captions=9, num_classes=8, num_findings=5)
    expected_loss, expected = dense(toy, loss)
    result = step(toy, loss, micro_batch_size=micro_batch_size, tile_size=tile_size)
    assert result.loss == pytest.approx(expected_loss, abs=1e-10)
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


def test_similar_sets_attract_more_than_other_sets() -> None:
    """Without this, the soft targets of every set would be those of equal sets."""
    toy = Toy.make(num_pairs=23, num_captions=9, num_classes=8, num_findings=5)
    soft = step(toy, LossConfig(kind="soft_target", temperature=0.3), micro_batch_size=None, tile_size=5)
    toy.labels = None
    equal = step(toy, LossConfig(kind="soft_target", temperature=0.3), micro_batch_size=None, tile_size=5)
    assert abs(soft.loss - equal.loss) > 1e-3


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 1, 0], [1, 0, 0], 1 / 2),
        ([1, 1, 0], [1, 0, 1], 1 / 3),
        ([1, -1, 0], [1, 1, 0], 1.0),  # they differ only where a label is unknown
        ([1, -1, 0], [0, 1, 1], 0.0),
        ([1, -1, 1], [1, 0, -1], 1.0),
        ([-1, 0, 0], [0, -1, 0], 0.0),  # nothing is known to be present
        ([-1, -1, -1], [1, 1, 1], 0.0),
        ([-1, 0, 0], [-1, 0, 0], 1.0),  # a set and itself
    ],
)
def test_jaccard_similarity_ignores_unknown_labels(a: list[int], b: list[int], expected: float) -> None:
    assert jaccard(a, b) == expected
    labels = torch.tensor([a] if a == b else [a, b], dtype=torch.int8)
    last = len(labels) - 1
    similarity = Jaccard(labels).tile(range(len(labels)), range(len(labels)))
    assert similarity[0, last] == similarity[last, 0] == expected
    assert similarity.diagonal().tolist() == [1.0] * len(labels)


@pytest.mark.parametrize("tile_size", [1, 3, 40])
def test_tiles_of_the_similarity_are_symmetric_and_at_most_one(tile_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 2, (20, 4), generator=generator).to(torch.int8).unique(dim=0)
    num_groups, rows = len(labels), labels.tolist()
    similarity = torch.full((num_groups, num_groups), math.nan, dtype=torch.float64)
    for i in range(0, num_groups, tile_size):
        for j in range(0, num_groups, tile_size):
            here, there = (range(k, min(k + tile_size, num_groups)) for k in (i, j))
            similarity[here.start : here.stop, there.start : there.stop] = Jaccard(labels).tile(here, there)
    expected = [[jaccard(a, b) for b in rows] for a in rows]
    torch.testing.assert_close(similarity, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)
    assert torch.equal(similarity, similarity.T)
    assert similarity.max() == 1.0


def dense_labels(toy: Toy, loss: LossConfig, dim: int) -> torch.Tensor:
    """Returns t [B, B], normalised over `dim` where the loss normalises."""
    w, pair = loss.pair_weight, torch.eye(len(toy.classes), dtype=torch.float64)
    alike = (toy.classes[:, None] == toy.classes[None, :]).double()
    match loss.kind:
        case "clip":
            return pair
        case "multi_positive":
            return w * pair + (1 - w) * alike / alike.sum(dim, keepdim=True)
        case "soft_target":
            return w * pair + (1 - w) * (toy.similarity("class") / loss.temperature).softmax(dim)
        case _:
            return w * pair + (1 - w) * alike


@pytest.mark.parametrize("loss", CONTRASTIVE, ids=IDS)
def test_floor_is_the_entropy_of_the_targets_on_captions(loss: LossConfig) -> None:
    toy = Toy.make(num_pairs=23, num_captions=9, num_classes=8, num_findings=5)
    carries = torch.nn.functional.one_hot(toy.text_of_pair).double()
    expected = 0.0
    for dim in (0, 1):  # pairs with one caption have one logit, so they share their targets
        shared = (dense_labels(toy, loss, dim) @ carries / carries.sum(0))[:, toy.text_of_pair]
        entropy = -torch.xlogy(shared, shared)
        if loss.kind == "siglip":
            entropy -= torch.xlogy(1 - shared, 1 - shared)
        expected += entropy.sum().item() / len(toy.classes) / 2
    floor = step(toy, loss, micro_batch_size=None, tile_size=4).floor
    assert floor == pytest.approx(expected, abs=1e-10)
    assert floor > 0.01


@pytest.mark.parametrize("pair_weight", [0.0, 0.3])
def test_gradient_descent_reaches_the_floor_of_soft_targets(pair_weight: float) -> None:
    loss = LossConfig(kind="soft_target", temperature=0.3, pair_weight=pair_weight)
    toy = Toy.make(num_pairs=13, num_captions=13, num_classes=5, num_findings=4)
    torch.manual_seed(0)
    images, texts = (torch.randn(13, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    toy.encode_images, toy.encode_texts = lambda rows: images[rows], lambda rows: texts[rows]
    options = {"max_iter": 500, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([images, texts], **options)
    result: StepResult | None = None

    def closure() -> torch.Tensor:
        nonlocal result
        optimizer.zero_grad()
        result = global_batch_step(
            toy,
            plan_of(toy),
            loss,
            log_logit_scale=torch.zeros((), dtype=torch.float64),
            parameters=[images, texts],
            micro_batch_size=None,
        )
        assert result.loss >= result.floor - 1e-12
        return torch.tensor(result.loss)

    optimizer.step(closure)
    assert result is not None
    assert result.loss == pytest.approx(result.floor, abs=1e-5)  # L-BFGS stops at small gradients


def findings(num_pairs: int = 23) -> Toy:
    return Toy.make(num_pairs=num_pairs, num_classes=8, num_findings=5, texts_are_findings=True)


@pytest.mark.parametrize("kind", ["class_prompt", "cross_entropy"])
@pytest.mark.parametrize(("micro_batch_size", "tile_size"), [(3, 1), (7, 4), (None, 5), (None, 512)])
def test_losses_over_findings_equal_a_masked_binary_cross_entropy(
    kind: LossKind, micro_batch_size: int | None, tile_size: int
) -> None:
    toy = findings()
    expected_loss, expected = dense(toy, LossConfig(kind=kind))
    result = step(toy, LossConfig(kind=kind), micro_batch_size=micro_batch_size, tile_size=tile_size)
    assert result.loss == pytest.approx(expected_loss, abs=1e-10)
    assert result.floor == 0.0
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


def test_a_frozen_text_tower_leaves_the_bias_of_findings_to_train() -> None:
    toy = findings()
    _, expected = dense(toy, LossConfig(kind="class_prompt"))
    toy.trains_texts = False
    step(toy, LossConfig(kind="class_prompt"), micro_batch_size=3, tile_size=4)
    torch.testing.assert_close(toy.gradients()[-5:], expected[-5:], **EXACT)


def test_unknown_labels_change_nothing_whatever_the_logits_are() -> None:
    toy = findings()
    assert toy.labels is not None
    toy.labels[:, 2] = -1
    loss = step(toy, LossConfig(kind="cross_entropy"), micro_batch_size=None, tile_size=4).loss
    with torch.no_grad():
        toy.logit_bias[2] = 50.0
    again = step(toy, LossConfig(kind="cross_entropy"), micro_batch_size=None, tile_size=4)
    assert again.loss == loss
    assert toy.logit_bias.grad is not None
    assert toy.logit_bias.grad[2] == 0


def test_an_image_without_known_labels_has_no_loss() -> None:
    toy = findings(2)
    toy.labels = torch.tensor([[-1] * 5, [1, 0, 0, 0, -1]], dtype=torch.int8)
    result = step(toy, LossConfig(kind="cross_entropy"), micro_batch_size=1, tile_size=4)
    toy.labels = toy.labels[1:]
    toy.image_inputs, toy.text_of_pair, toy.classes = (
        toy.image_inputs[1:],
        toy.text_of_pair[1:],
        toy.classes[1:],
    )
    alone = step(toy, LossConfig(kind="cross_entropy"), micro_batch_size=1, tile_size=4)
    assert result.loss == pytest.approx(alone.loss / 2, abs=1e-12)


def test_recall_counts_images_whose_nearest_finding_is_present() -> None:
    toy = findings(3)
    toy.encode_images = lambda rows: torch.eye(5, dtype=torch.float64)[[0, 1, 2]][rows.start : rows.stop]
    toy.encode_texts = lambda rows: torch.eye(5, dtype=torch.float64)[rows.start : rows.stop]
    toy.labels = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, -1, 0, 0]], dtype=torch.int8)
    toy.logit_bias = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    toy.trains_images = toy.trains_texts = False
    result = step(toy, LossConfig(kind="class_prompt"), micro_batch_size=None, tile_size=2)
    assert result.recall == pytest.approx(1 / 3)


def test_groups_are_equal_sets_and_keep_their_labels() -> None:
    labels = torch.tensor([[1, 0], [1, -1], [1, 0], [0, 0]], dtype=torch.int8)
    groups = torch.unique(labels, dim=0, return_inverse=True)[1]
    plan = BatchPlan(torch.arange(4), groups, labels=labels)
    assert plan.group_labels is not None
    assert plan.group_labels[plan.group_of_pair].tolist() == labels.tolist()
    assert len(plan.group_labels) == 3


def test_labels_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="5 pairs but 4 rows of labels"):
        BatchPlan(torch.arange(5), torch.arange(5), labels=torch.zeros(4, 3, dtype=torch.int8))
