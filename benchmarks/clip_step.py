"""The gradient of one contrastive batch by each contender, on the same encoder, adapters, pixels and tokens.

Peers are written from their definition or called as their documentation says. The objective is CLIP's
symmetric cross-entropy with a fixed logit scale: of a learned one, open_clip's accumulation would add the
gradient once per micro-batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from random_encoders import text_vocabulary
from torch import Tensor, nn

from trainables.config import LossConfig
from trainables.losses.batch_plan import BatchPlan, tiles
from trainables.losses.global_batch import global_batch_step
from trainables.models.encoders.dropout import CounterDropout, set_dropout_rows
from trainables.models.encoders.dual_encoder import DualEncoder, Tokens
from trainables.models.torchvision_import import declare_missing_operators

Dropout = Literal["counter", "ordinary", "none"]


@dataclass(frozen=True)
class Batch:
    """What waits on the host, for every contender the same: uint8 pixels and int64 tokens, not floats.

    Args:
        images: uint8 [B, H, W], grey. Each forward pass normalises its own rows.
        token_ids: int64 [U, L], the distinct captions, none of them padded.
        text_of_pair: int64 [B], in 0…U-1.
    """

    images: Tensor
    token_ids: Tensor
    text_of_pair: Tensor

    @classmethod
    def random(cls, encoder: DualEncoder, *, pairs: int, captions: int, tokens: int, seed: int) -> Batch:
        """Draws pixels and tokens; the last token of a caption is the one that CLIP reads."""
        words, last = text_vocabulary(encoder)
        random = torch.Generator().manual_seed(seed)
        size = encoder.preprocessing.size
        token_ids = torch.randint(0, words, (captions, tokens), generator=random)
        token_ids[:, -1] = last
        images = torch.randint(0, 256, (pairs, size, size), dtype=torch.uint8, generator=random)
        return cls(images, token_ids, torch.arange(pairs) % captions)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_bytes(self) -> int:
        """What the inputs take on the host."""
        return sum(part.nbytes for part in (self.images, self.token_ids, self.text_of_pair))


@dataclass(frozen=True)
class Step:
    """One step: the encoder, its batch, and how the step may be cut.

    Args:
        encoder: with LoRA in both towers.
        parameters: what trains.
        batch: the pairs.
        micro_batch_size: pairs per forward, of all but `plain`.
        kept_graphs: of `ours`.
        seed: of the masks of `ours`.
    """

    encoder: DualEncoder
    parameters: list[nn.Parameter]
    batch: Batch
    micro_batch_size: int
    kept_graphs: int
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return self.encoder.log_logit_scale.device

    @property
    def logit_scale(self) -> float:
        """The fixed multiplier."""
        return float(self.encoder.log_logit_scale.detach().exp())

    def micro_batches(self) -> list[slice]:
        """Returns the rows of each, the last one possibly shorter."""
        cut = tiles(range(len(self.batch)), self.micro_batch_size)
        return [slice(rows.start, rows.stop) for rows in cut]

    def images(self, rows: slice) -> Tensor:
        """Returns the embeddings of these images."""
        return self.encoder.encode_image(self.batch.images[rows]).joint

    def texts(self, rows: slice) -> Tensor:
        """Returns the embeddings of these pairs' captions, each embedded as often as it occurs."""
        return self.captions(self.batch.token_ids[self.batch.text_of_pair[rows]])

    def captions(self, token_ids: Tensor) -> Tensor:
        """Returns the embeddings of captions without padding."""
        return self.encoder.encode_text(Tokens(token_ids, torch.ones_like(token_ids)))

    def loss(self, images: Tensor, texts: Tensor) -> Tensor:
        """Returns the objective from one dense matrix of logits, as Hugging Face's CLIPModel does."""
        logits = self.logit_scale * images @ texts.T
        pair = torch.arange(len(images), device=images.device)
        return (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair)) / 2


def plain(step: Step) -> None:
    """The whole batch in one graph: what every graph kept comes to."""
    everything = slice(None)
    step.loss(step.images(everything), step.texts(everything)).backward()


def gradient_caching(step: Step) -> None:
    """Gao et al. 2021 (arXiv:2101.06983, §3): gradients of embeddings are cached, forward passes replayed."""
    towers, pieces = (step.images, step.texts), step.micro_batches()
    on_gpu = step.device.type == "cuda"
    random: Any = torch.cuda if on_gpu else torch  # whose generator draws the masks
    states: list[Tensor] = []
    embedded: list[Any] = []
    with torch.no_grad():
        for encode in towers:
            parts: list[Tensor] = []
            for rows in pieces:
                states.append(random.get_rng_state())
                parts.append(encode(rows))
            embedded.append(torch.cat(parts).requires_grad_())
    step.loss(*embedded).backward()
    with torch.random.fork_rng(devices=[step.device] if on_gpu else []):
        for tower, encode in enumerate(towers):
            for i, rows in enumerate(pieces):
                random.set_rng_state(states[tower * len(pieces) + i])  # the same masks once more
                encode(rows).backward(embedded[tower].grad[rows])


def open_clip(step: Step) -> None:
    """open_clip's `ClipLoss`, used as its training loop does with `--accum-freq` B / m.

    Features without graph; then, for every micro-batch, its features anew with graph in their place among the
    others', the loss of the whole batch, and a backward pass. Masks of the second pass are others than those
    of the first.
    """
    declare_missing_operators()
    from open_clip.loss import ClipLoss

    loss, pieces = ClipLoss(), step.micro_batches()
    with torch.no_grad():
        images = [step.images(rows) for rows in pieces]
        texts = [step.texts(rows) for rows in pieces]
    for i, rows in enumerate(pieces):
        own_images, own_texts = step.images(rows), step.texts(rows)
        all_images = torch.cat([*images[:i], own_images, *images[i + 1 :]])
        all_texts = torch.cat([*texts[:i], own_texts, *texts[i + 1 :]])
        loss(all_images, all_texts, step.logit_scale).backward()


def sentence_transformers(step: Step) -> None:
    """sentence-transformers' `CachedMultipleNegativesRankingLoss` in both directions, on dot products.

    Each direction has its own normaliser ("per_direction") and they are averaged, which makes it CLIP's loss.
    """
    declare_missing_operators()
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    loss = CachedMultipleNegativesRankingLoss(
        _SentenceEncoder(step),  # pyright: ignore[reportArgumentType]  # a module from features to embeddings
        scale=step.logit_scale,
        similarity_fct=dot_score,
        mini_batch_size=step.micro_batch_size,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    images = {"images": step.batch.images}
    texts = {"input_ids": step.batch.token_ids[step.batch.text_of_pair]}
    loss([images, texts], torch.empty(0)).backward()


class _SentenceEncoder(nn.Module):
    """The part of a SentenceTransformer that its cached loss calls: features in, a dictionary out."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def __getitem__(self, index: int) -> nn.Module:
        return self.step.encoder  # the loss asks what kind the first module is

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns unit-length embeddings of images or captions."""
        if "images" in features:
            return {"sentence_embedding": self.step.encoder.encode_image(features["images"]).joint}
        return {"sentence_embedding": self.step.captions(features["input_ids"])}


def ours(step: Step) -> None:
    """`global_batch_step`, as `trainables.trials.finetune` calls it.

    Raises:
        MemoryError: the step fell back to a smaller micro-batch, so it is not the one asked for.
    """
    text_of_pair = step.batch.text_of_pair
    result = global_batch_step(
        RowsOfBatch(step.encoder, step.batch, step.seed),
        BatchPlan(text_of_pair, groups=text_of_pair),
        LossConfig(kind="clip"),
        log_logit_scale=step.encoder.log_logit_scale,
        parameters=step.parameters,
        micro_batch_size=step.micro_batch_size,
        kept_graphs=step.kept_graphs,
        encoder_dtype=step.encoder.dtype,
    )
    if result.micro_batch_size != step.micro_batch_size:
        raise MemoryError(f"micro-batches of {step.micro_batch_size} did not fit")


@dataclass
class RowsOfBatch:
    """The batch as the engine sees it; a caption's row, which its mask depends on, is its first pair's."""

    encoder: DualEncoder
    batch: Batch
    seed: int
    step: int = 0
    trains_images: bool = True
    trains_texts: bool = True

    def encode_images(self, rows: range) -> Tensor:
        """Returns joint embeddings [m, D] of these rows of the global batch."""
        set_dropout_rows(self.encoder, seed=self.seed, step=self.step, image_rows=rows)
        return self.encoder.encode_image(self.batch.images[rows.start : rows.stop]).joint

    def encode_texts(self, rows: range) -> Tensor:
        """Returns joint embeddings [m, D] of these distinct captions, numbered as they occur."""
        set_dropout_rows(self.encoder, seed=self.seed, step=self.step, text_rows=rows)
        token_ids = self.batch.token_ids[rows.start : rows.stop]
        return self.encoder.encode_text(Tokens(token_ids, torch.ones_like(token_ids)))


@dataclass(frozen=True)
class Contender:
    """One way to the gradient.

    Args:
        take: adds the gradient to `.grad`.
        dropout: whose masks it draws.
        package: what it needs beside this project.
        micro_batches: whether it cuts the batch.
        keeps_graphs: whether `kept_graphs` concerns it.
    """

    take: Callable[[Step], None]
    dropout: Dropout = "ordinary"
    package: str | None = None
    micro_batches: bool = True
    keeps_graphs: bool = False

    @property
    def is_installed(self) -> bool:
        """Says whether it can run here."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


CONTENDERS: dict[str, Contender] = {
    "plain": Contender(plain, micro_batches=False),
    "open_clip": Contender(open_clip, package="open_clip"),
    "sentence_transformers": Contender(sentence_transformers, package="sentence_transformers"),
    "gradient_caching": Contender(gradient_caching),
    "ours": Contender(ours, dropout="counter", keeps_graphs=True),
    "ours_bfloat16": Contender(ours, dropout="counter", keeps_graphs=True),
}


class DropoutSwitch:
    """Exchanges the adapters' dropout, so that contenders share one encoder: 151 M weights once."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.layers: list[tuple[Any, CounterDropout | None]] = [
            (module, module.lora_A["default"].dropout)
            for module in encoder.modules()
            if hasattr(module, "lora_A")
        ]

    def turn_to(self, kind: Dropout) -> None:
        """`counter` is this project's, inside A; `ordinary` is PEFT's own, an `nn.Dropout` before A."""
        for layer, counter in self.layers:
            if counter is None:  # without dropout all are alike
                continue
            layer.lora_A["default"].dropout = counter if kind == "counter" else None
            before = nn.Dropout(counter.probability) if kind == "ordinary" else nn.Identity()
            layer.lora_dropout["default"] = before


@contextmanager
def counted_rows(encoder: DualEncoder) -> Iterator[dict[str, int]]:
    """Counts the rows that each tower encodes meanwhile."""
    rows = {"image": 0, "text": 0}

    def count(tower: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            rows[tower] += len(output)

        return hook

    clip: Any = encoder.get_submodule("model")
    lowest = {"image": clip.vision_model.embeddings, "text": clip.text_model.embeddings}
    handles = [module.register_forward_hook(count(tower)) for tower, module in lowest.items()]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
