"""Two tiny towers and the dense losses, written from their definitions: the reference of every engine test.

Imports nothing from `trainables.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hash_mask(rows: Tensor, width: int, *, salt: int, rate: float) -> Tensor:
    """Returns a dropout mask [rows, width], scaled, that depends on the row's number and on nothing else."""
    counters = rows.unsqueeze(1) * 1_000_003 + torch.arange(width) * 7_919 + salt * 104_729
    mixed = (counters * 2_654_435_761 % 2**32) ^ (counters * 40_503 % 2**16)
    return (mixed % 1_000 / 1_000 >= rate).double() / (1 - rate)


class ToyTower(nn.Module):
    """inputs [N, 6] → unit-length [N, D]."""

    def __init__(self, dimension: int, *, salt: int, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(salt)
        self.first = nn.Parameter(torch.randn(6, 10, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(10, dimension, generator=generator, dtype=torch.float64))
        self.salt, self.dropout = salt, dropout

    def forward(self, inputs: Tensor, rows: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ self.first)
        if self.dropout:
            hidden = hidden * hash_mask(rows, hidden.shape[1], salt=self.salt, rate=self.dropout).to(
                hidden.dtype
            )
        return F.normalize(hidden @ self.second, dim=1)


@dataclass
class Toy:
    """A global batch of B pairs with U distinct captions, and both towers: a `PairEncoder` of the engine."""

    image_inputs: Tensor
    caption_inputs: Tensor
    text_of_pair: Tensor
    classes: Tensor
    image_tower: ToyTower
    text_tower: ToyTower
    log_logit_scale: nn.Parameter
    logit_bias: nn.Parameter
    trains_images: bool = True
    trains_texts: bool = True
    labels: Tensor | None = None

    @classmethod
    def make(
        cls,
        num_pairs: int = 16,
        num_captions: int = 7,
        *,
        num_classes: int = 3,
        dropout: float = 0.0,
        dimension: int = 8,
        captions_by_class: bool = False,
        logit_scale: float = 5.0,
        num_findings: int = 0,
        texts_are_findings: bool = False,
        seed: int = 0,
    ) -> Toy:
        generator = torch.Generator().manual_seed(100 + seed)
        classes = torch.randint(num_classes, (num_pairs,), generator=generator)
        labels = None
        if num_findings:  # a class is then a set of findings
            sets = torch.randint(-1, 2, (num_classes, num_findings), generator=generator).to(torch.int8)
            sets[0] = torch.tensor([0, -1] * num_findings)[:num_findings]  # nothing is known to be present
            labels = sets[classes]
        if texts_are_findings:
            captions = torch.zeros(num_pairs, dtype=torch.int64)
        elif captions_by_class:
            captions = classes
        elif num_captions == num_pairs:
            captions = torch.arange(num_pairs)
        else:
            captions = torch.randint(num_captions, (num_pairs,), generator=generator)
        _, text_of_pair = torch.unique(captions, return_inverse=True)
        num_distinct = num_findings if texts_are_findings else int(text_of_pair.max()) + 1
        bias = torch.linspace(-3, -1, num_findings) if texts_are_findings else torch.tensor(-2.0)
        return cls(
            image_inputs=torch.randn(num_pairs, 6, generator=generator, dtype=torch.float64),
            caption_inputs=torch.randn(num_distinct, 6, generator=generator, dtype=torch.float64),
            text_of_pair=text_of_pair,
            classes=classes,
            image_tower=ToyTower(dimension, salt=1 + seed, dropout=dropout),
            text_tower=ToyTower(dimension, salt=2 + seed, dropout=dropout),
            log_logit_scale=nn.Parameter(torch.tensor(logit_scale, dtype=torch.float64).log()),
            logit_bias=nn.Parameter(bias.double()),
            labels=labels,
        )

    def to(self, dtype: torch.dtype) -> Toy:
        self.image_inputs, self.caption_inputs = self.image_inputs.to(dtype), self.caption_inputs.to(dtype)
        self.image_tower.to(dtype)
        self.text_tower.to(dtype)
        self.log_logit_scale = nn.Parameter(self.log_logit_scale.detach().to(dtype))
        self.logit_bias = nn.Parameter(self.logit_bias.detach().to(dtype))
        return self

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.image_tower.parameters(), *self.text_tower.parameters()]

    @property
    def learned(self) -> list[nn.Parameter]:
        return [*self.parameters, self.log_logit_scale, self.logit_bias]

    def encode_images(self, rows: range) -> Tensor:
        positions = torch.arange(rows.start, rows.stop)
        return self.image_tower(self.image_inputs[positions], positions)

    def encode_texts(self, rows: range) -> Tensor:
        positions = torch.arange(rows.start, rows.stop)
        return self.text_tower(self.caption_inputs[positions], positions)

    def gradients(self) -> Tensor:
        """Returns every gradient in one vector and clears them; 0 where there is none."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.learned]
        for parameter in self.learned:
            parameter.grad = None
        return torch.cat([part.detach().reshape(-1).clone() for part in parts])

    def groups(self, positives: str) -> Tensor:
        return self.classes if positives == "class" else self.text_of_pair

    def group_vectors(self, positives: str) -> Tensor | None:
        """Returns the vectors that soft targets compare, [C, d] unit length; None = they compare labels."""
        return F.normalize(self.caption_inputs.double(), dim=1) if positives == "caption" else None

    def similarity(self, positives: str) -> Tensor:
        """Returns the similarities of all pairs, [B, B]."""
        vectors = self.group_vectors(positives)
        if vectors is not None:
            return vectors[self.text_of_pair] @ vectors[self.text_of_pair].T
        if self.labels is None:
            return (self.classes[:, None] == self.classes[None, :]).double()
        rows = self.labels.tolist()
        return torch.tensor([[jaccard(a, b) for b in rows] for a in rows], dtype=torch.float64)


def jaccard(a: list[int], b: list[int]) -> float:
    """Returns |a ∩ b| / |a ∪ b| over the findings that are known in both; -1 = unknown."""
    if a == b:
        return 1.0
    known = {k for k in range(len(a)) if a[k] != -1 and b[k] != -1}
    in_a, in_b = {k for k in known if a[k] == 1}, {k for k in known if b[k] == 1}
    return len(in_a & in_b) / len(in_a | in_b) if in_a | in_b else 0.0


def dense_targets(kind: str, groups: Tensor, pair_weight: float) -> Tensor:
    """Returns t [B, B] of the definition: t_ij = w [i = j] + (1 - w) [i ~ j] / n_i."""
    pair = torch.eye(len(groups), dtype=torch.float64)
    if kind == "clip":
        return pair
    alike = (groups[:, None] == groups[None, :]).double()
    return pair_weight * pair + (1 - pair_weight) * alike / alike.sum(1, keepdim=True)


def dense_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    kind: str,
    groups: Tensor,
    pair_weight: float = 0.0,
    temperature: float = 0.1,
    similarity: Tensor | None = None,
) -> Tensor:
    """Returns the loss over all B × B pairs, one row of text per pair; autograd does the rest."""
    if kind == "soft_target":
        assert similarity is not None
        similarity = similarity / temperature
        pair = torch.eye(len(groups), dtype=torch.float64)
        by_row = (pair_weight * pair + (1 - pair_weight) * similarity.softmax(1)).to(images)
        by_column = (pair_weight * pair + (1 - pair_weight) * similarity.softmax(0)).to(images)
        logits = logit_scale * images @ texts.T
        by_image = -(by_row * logits.log_softmax(1)).sum(1).mean()
        by_text = -(by_column * logits.log_softmax(0)).sum(0).mean()
        return (by_image + by_text) / 2
    if kind == "siglip":
        logits = logit_scale * images @ texts.T + logit_bias
        pair, alike = torch.eye(len(groups)).double(), (groups[:, None] == groups[None, :]).double()
        labels = (pair_weight * pair + (1 - pair_weight) * alike).to(images)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(groups)
    targets = dense_targets(kind, groups, pair_weight).to(images)
    logits = logit_scale * images @ texts.T
    by_image = -(targets * logits.log_softmax(1)).sum(1).mean()
    by_text = -(targets * logits.log_softmax(0)).sum(0).mean()
    return (by_image + by_text) / 2


def masked_binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean over images of the mean over the known labels of each image."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        known = label != -1
        each = -torch.where(label == 1, row.sigmoid(), 1 - row.sigmoid())[known].log()
        losses.append(each.mean() if known.any() else each.sum())
    return torch.stack(losses).mean()


def reference(
    toy: Toy, kind: str, *, positives: str = "class", pair_weight: float = 0.0, temperature: float = 0.1
) -> tuple[float, Tensor]:
    """Returns loss and gradients of the whole batch in one graph, a row of text per pair."""
    images = toy.encode_images(range(len(toy.classes)))
    texts = toy.encode_texts(range(len(toy.caption_inputs)))
    scale = toy.log_logit_scale.exp()
    if kind in ("class_prompt", "cross_entropy") and toy.labels is not None:
        loss = masked_binary_cross_entropy(scale * images @ texts.T + toy.logit_bias, toy.labels)
    elif kind in ("class_prompt", "cross_entropy"):  # each caption stands for a class
        loss = F.cross_entropy(scale * images @ texts.T, toy.text_of_pair)
    else:
        loss = dense_loss(
            images,
            texts[toy.text_of_pair],
            scale,
            toy.logit_bias,
            kind=kind,
            groups=toy.groups(positives),
            pair_weight=pair_weight,
            temperature=temperature,
            similarity=toy.similarity(positives),
        )
    loss.backward()
    return loss.item(), toy.gradients()
