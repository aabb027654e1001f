"""The step against one dense autograd loss, in one process: cuts, duplicates, dropout, memory, failures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from contrastive_toys import Toy, reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.config import LossConfig
from trainables.losses import contrastive
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.collectives import OutOfMemory
from trainables.losses.global_batch import NonFiniteLoss, StepResult, global_batch_step
from trainables.losses.towers import Tower

pytestmark = pytest.mark.kernels

LOSSES = [
    LossConfig(kind="clip"),
    LossConfig(kind="multi_positive"),
    LossConfig(kind="multi_positive", pair_weight=0.3),
    LossConfig(kind="multi_positive", positives="caption", pair_weight=0.3),
    LossConfig(kind="soft_target", temperature=0.5),
    LossConfig(kind="soft_target", positives="caption", temperature=0.3),
    LossConfig(kind="soft_target", positives="caption", temperature=0.3, pair_weight=0.3),
    LossConfig(kind="siglip"),
    LossConfig(kind="siglip", pair_weight=1.0),
    LossConfig(kind="siglip", positives="caption", pair_weight=0.3),
    LossConfig(kind="class_prompt"),
]
LOSS_IDS = [f"{loss.kind}-{loss.positives}-{loss.pair_weight}" for loss in LOSSES]
CONTRASTIVE = [loss for loss in LOSSES if loss.kind != "class_prompt"]
EXACT = {"rtol": 0, "atol": 1e-10}  # float64: rounding only


def step(toy: Toy, loss: LossConfig, micro_batch_size: int | None = None, **options: int) -> StepResult:
    return global_batch_step(
        toy,
        BatchPlan(toy.text_of_pair, toy.groups(loss.positives), num_texts=len(toy.caption_inputs)),
        loss,
        group_vectors=toy.group_vectors(loss.positives),
        log_logit_scale=toy.log_logit_scale,
        logit_bias=toy.logit_bias,
        parameters=toy.parameters,
        micro_batch_size=micro_batch_size,
        **{"tile_size": 5, **options},
    )


def dense(toy: Toy, loss: LossConfig) -> tuple[float, Tensor]:
    return reference(
        toy,
        loss.kind,
        positives=loss.positives,
        pair_weight=loss.pair_weight,
        temperature=loss.temperature,
    )


@pytest.mark.parametrize("loss", LOSSES, ids=LOSS_IDS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 7, None])
def test_gradient_equals_full_batch_autograd(
    loss: LossConfig, dropout: float, micro_batch_size: int | None
) -> None:
    toy = Toy.make(dropout=dropout)  # 16 pairs, 7 captions or fewer: duplicates, and a tail for 3 and 7
    expected_loss, expected = dense(toy, loss)
    result = step(toy, loss, micro_batch_size)
    assert result.loss == pytest.approx(expected_loss, abs=1e-10)
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


@pytest.mark.parametrize("loss", LOSSES, ids=LOSS_IDS)
def test_captions_all_distinct(loss: LossConfig) -> None:
    toy = Toy.make(num_pairs=11, num_captions=11)
    expected_loss, expected = dense(toy, loss)
    assert step(toy, loss, 4).loss == pytest.approx(expected_loss, abs=1e-10)
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


@pytest.mark.parametrize("logit_scale", [0.5, 100.0])
def test_large_and_small_logit_scale_in_float32(logit_scale: float) -> None:
    loss = LossConfig(kind="multi_positive", pair_weight=0.5)
    toy = Toy.make(num_pairs=64, num_captions=20, logit_scale=logit_scale)
    expected_loss, expected = dense(toy, loss)
    result = step(toy.to(torch.float32), loss, 9)
    assert result.loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(
        toy.gradients().double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item()
    )


def test_duplicated_captions_embedded_once_equal_every_time() -> None:
    toy = Toy.make()
    once = step(toy, LOSSES[1], 3)
    gradients = toy.gradients()
    toy.caption_inputs = toy.caption_inputs[toy.text_of_pair]
    toy.text_of_pair = torch.arange(len(toy.classes))
    every_time = step(toy, LOSSES[1], 3)
    assert every_time.loss == pytest.approx(once.loss, abs=1e-12)
    torch.testing.assert_close(toy.gradients(), gradients, **EXACT)


def test_one_caption_per_class_makes_clip_and_multi_positive_the_same() -> None:
    toy = Toy.make(captions_by_class=True)
    clip = step(toy, LossConfig(kind="clip"), 3)
    gradients = toy.gradients()
    multi_positive = step(toy, LossConfig(kind="multi_positive"), 3)
    assert multi_positive.loss == pytest.approx(clip.loss, abs=1e-10)
    assert multi_positive.floor == pytest.approx(clip.floor, abs=1e-10)
    torch.testing.assert_close(toy.gradients(), gradients, **EXACT)


@pytest.mark.parametrize("frozen", ["image", "text"])
def test_a_frozen_tower_is_embedded_once_and_changes_no_other_gradient(frozen: str) -> None:
    toy = Toy.make()
    _, expected = dense(toy, LOSSES[1])
    tower = toy.image_tower if frozen == "image" else toy.text_tower
    tower.requires_grad_(False)
    toy.trains_images, toy.trains_texts = frozen != "image", frozen != "text"
    with counted(toy) as forwards:
        step(toy, LOSSES[1], 3)
    assert forwards[frozen] == (len(toy.classes) if frozen == "image" else len(toy.caption_inputs))
    frozen_numel = sum(p.numel() for p in tower.parameters())
    gradient = toy.gradients()
    trained = slice(frozen_numel, -2) if frozen == "image" else slice(0, frozen_numel)
    skipped = slice(0, frozen_numel) if frozen == "image" else slice(frozen_numel, -2)
    torch.testing.assert_close(gradient[trained], expected[trained], **EXACT)
    torch.testing.assert_close(gradient[-2:], expected[-2:], **EXACT)  # logit scale and bias
    assert not gradient[skipped].any()


def test_fixed_logit_scale_gets_no_gradient() -> None:
    toy = Toy.make()
    toy.log_logit_scale.requires_grad_(False)
    step(toy, LOSSES[1], 3)
    assert toy.log_logit_scale.grad is None
    assert all(p.grad is not None and p.grad.any() for p in toy.parameters)


def test_gradients_accumulate_into_what_is_there() -> None:
    toy = Toy.make()
    _, expected = dense(toy, LOSSES[0])
    step(toy, LOSSES[0], 3)
    step(toy, LOSSES[0], 5)
    torch.testing.assert_close(toy.gradients(), 2 * expected, **EXACT)


@contextlib.contextmanager
def counted(toy: Toy) -> Iterator[dict[str, int]]:
    """Counts rows that pass through each tower."""
    rows = {"image": 0, "text": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: tuple[Tensor, ...], output: object) -> None:
            rows[name] += len(inputs[0])

        return hook

    handles = [
        toy.image_tower.register_forward_hook(count("image")),
        toy.text_tower.register_forward_hook(count("text")),
    ]
    yield rows
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("micro_batch_size", "kept_graphs", "image_rows", "text_rows"),
    [
        (None, 1, 16, 7),  # the plain step: every row once
        (4, 1, 16 + 12, 7 + 7),  # one graph is kept, the rest is replayed
        (4, 4, 16, 7 + 7),  # images first
        (4, 5, 16, 7 + 3),
        (4, 6, 16, 7),  # all of them: the plain step in pieces
        (5, 1, 16 + 11, 7 + 7),  # what is kept is a full micro-batch, not the tail of one row
    ],
)
def test_encoder_forwards(
    micro_batch_size: int | None, kept_graphs: int, image_rows: int, text_rows: int
) -> None:
    toy = Toy.make()
    assert len(toy.caption_inputs) == 7
    expected_loss, expected = dense(toy, LOSSES[1])
    with counted(toy) as forwards:
        assert step(toy, LOSSES[1], micro_batch_size, kept_graphs=kept_graphs).loss == pytest.approx(
            expected_loss
        )
    assert forwards == {"image": image_rows, "text": text_rows}
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


class _LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor):
                self.numel = max(self.numel, made.numel())
        return result


@pytest.mark.parametrize("loss", LOSSES, ids=LOSS_IDS)
@pytest.mark.parametrize("num_captions", [9, 512])
def test_no_tensor_grows_with_the_square_of_the_batch(loss: LossConfig, num_captions: int) -> None:
    toy = Toy.make(num_pairs=512, num_captions=num_captions, num_classes=40)
    with _LargestTensor() as largest:
        step(toy, loss, 64, tile_size=64)
    assert 0 < largest.numel < 512 * 512 / 4


def test_loss_is_at_least_its_floor_and_reaches_it() -> None:
    """Gradient descent on free embeddings of high dimension ends at the floor, for every loss."""
    torch.manual_seed(0)
    text_of_pair = torch.tensor([0, 0, 1, 2, 3, 1])
    classes = torch.tensor([0, 0, 0, 1, 1, 1])  # caption 1 occurs in both classes

    class Free:
        trains_images = trains_texts = True

        def __init__(self) -> None:
            self.images = torch.randn(6, 12, dtype=torch.float64, requires_grad=True)
            self.texts = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)

        def encode_images(self, rows: range) -> Tensor:
            return self.images[rows.start : rows.stop]

        def encode_texts(self, rows: range) -> Tensor:
            return self.texts[rows.start : rows.stop]

    for loss in LOSSES:
        free = Free()
        groups = classes if loss.positives == "class" else text_of_pair
        plan = BatchPlan(text_of_pair, groups)
        log_logit_scale = torch.zeros((), dtype=torch.float64)
        optimizer = torch.optim.LBFGS([free.images, free.texts], max_iter=500, line_search_fn="strong_wolfe")
        result = None

        def closure(free=free, plan=plan, loss=loss, scale=log_logit_scale, optimizer=optimizer) -> Tensor:
            nonlocal result
            optimizer.zero_grad()
            parameters = [free.images, free.texts]
            result = global_batch_step(
                free, plan, loss, log_logit_scale=scale, parameters=parameters, micro_batch_size=None
            )
            assert result.loss >= result.floor - 1e-12
            return torch.tensor(result.loss)

        optimizer.step(closure)
        assert result is not None
        assert result.loss == pytest.approx(result.floor, abs=1e-3)  # some reach it at infinite logits only


def test_recall_counts_a_caption_of_the_own_class_as_right() -> None:
    class Fixed:
        """Images 0 and 1 are nearest to caption 0, image 2 to caption 1, image 3 to caption 2."""

        trains_images = trains_texts = False

        def encode_images(self, rows: range) -> Tensor:
            return torch.eye(3)[[0, 0, 1, 2]][rows.start : rows.stop]

        def encode_texts(self, rows: range) -> Tensor:
            return torch.eye(3)[rows.start : rows.stop]

    # Class 0 carries captions 1 and 0, class 1 carries 2 and 1. So image 0 is right, though caption 0 is not
    # its own, image 1 is wrong, image 2 is right, image 3 is wrong.
    plan = BatchPlan(text_of_pair=torch.tensor([1, 2, 1, 0]), groups=torch.tensor([0, 1, 1, 0]))
    scale = torch.zeros(())
    for loss in LOSSES:
        result = global_batch_step(
            Fixed(), plan, loss, log_logit_scale=scale, parameters=[], micro_batch_size=None, tile_size=2
        )
        assert result.recall == 0.5


class _FailsOnce:
    """Raises out-of-memory on the n-th call of a function, then works."""

    def __init__(self, function: Callable[..., object], on_call: int, error: BaseException) -> None:
        self.function, self.on_call, self.error, self.calls = function, on_call, error, 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.calls == self.on_call:
            raise self.error
        return self.function(*args, **kwargs)


@pytest.mark.parametrize(
    ("phase", "on_call"),
    [
        ("first image", 1),
        ("text", 2),
        ("normalisers", 1),
        ("gradients", 1),
        ("image replay", 5),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
    ],
    ids=["gpu", "host", "onednn", "cublas", "cudnn", "engine"],
)
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing(
    phase: str, on_call: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy.make(dropout=0.3)
    expected_loss, expected = dense(toy, LOSSES[1])
    place, name = {
        "first image": (toy, "encode_images"),
        "text": (toy, "encode_texts"),
        "normalisers": (contrastive, "NearestCaption"),
        "gradients": (contrastive, "add_products"),
        "image replay": (toy, "encode_images"),  # 16 / 4 = 4 calls without graph come first
    }[phase]
    monkeypatch.setattr(place, name, _FailsOnce(getattr(place, name), on_call, error))
    result = step(toy, LOSSES[1], 4)
    assert result.micro_batch_size == 2
    assert result.loss == pytest.approx(expected_loss, abs=1e-10)
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


def test_out_of_memory_gives_up_kept_graphs_before_the_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy.make(dropout=0.3)
    _, expected = dense(toy, LOSSES[1])
    alive: list[int] = []
    embed = Tower.embed

    def small_memory(self: Tower) -> Tensor:
        alive.append(len(self.with_graph))
        if alive[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(self)

    monkeypatch.setattr(Tower, "embed", small_memory)
    result = step(toy, LOSSES[1], 1, kept_graphs=5)
    assert alive == [5, 1, 0]  # images of the first attempt; then one graph in all
    assert (result.micro_batch_size, result.kept_graphs) == (1, 1)
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


def test_out_of_memory_without_a_micro_batch_size_halves_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy.make()
    _, expected = dense(toy, LOSSES[1])
    largest: list[int] = []
    encode = toy.encode_images

    def small_memory(rows: range) -> Tensor:
        largest.append(len(rows))
        if len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(rows)

    monkeypatch.setattr(toy, "encode_images", small_memory)
    assert step(toy, LOSSES[1], None).micro_batch_size == 4
    assert largest[:3] == [16, 8, 4]
    torch.testing.assert_close(toy.gradients(), expected, **EXACT)


def test_out_of_memory_with_single_rows_is_an_error_and_leaves_gradients_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = Toy.make()
    toy.image_tower.first.grad = torch.ones_like(toy.image_tower.first)

    def no_memory(rows: range) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(toy, "encode_images", no_memory)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        step(toy, LOSSES[1], 2)
    assert (toy.image_tower.first.grad == 1).all()
    assert toy.text_tower.first.grad is None


def test_non_finite_loss_leaves_gradients_alone() -> None:
    toy = Toy.make()
    toy.image_inputs[3, 0] = torch.nan
    with pytest.raises(NonFiniteLoss, match="loss is nan"):
        step(toy, LOSSES[1], 4)
    assert all(p.grad is None for p in toy.learned)


def test_non_finite_gradient_of_a_finite_loss_is_refused() -> None:
    toy = Toy.make()
    toy.image_tower.first.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(NonFiniteLoss, match="a gradient is not"):
        step(toy, LOSSES[1], 4)
    assert all(p.grad is None for p in toy.learned)


def test_an_encoder_that_does_not_repeat_itself_is_refused() -> None:
    toy = Toy.make()
    encode = toy.encode_images
    toy.encode_images = lambda rows: torch.nn.functional.normalize(
        torch.nn.functional.dropout(encode(rows), 0.1), dim=1
    )
    with pytest.raises(RuntimeError, match="another embedding for the same input"):
        step(toy, LOSSES[1], 4)
