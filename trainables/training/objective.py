"""The objective of a trial, and the texts of its loss by `loss.kind`: captions, class prompts or vectors.

This module turns images, captions and classes into rows; `global_batch_step` only uses rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import TrialConfig
from trainables.context import RunContext
from trainables.data.loader import GlobalBatch
from trainables.data.text import every_sentence, prompts_of
from trainables.errors import ConfigError
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.collectives import Group, OutOfMemory
from trainables.losses.global_batch import StepResult, global_batch_step
from trainables.models.encoders.dropout import set_dropout_rows
from trainables.training.micro_batch import Cut, choose_cut, cost_of, memory_budget
from trainables.training.trial_setup import TrialSetup

MAX_KNOWN = 100_000
"""Captions whose embeddings stay in memory: 200 MB at 512 dimensions."""


class Texts(Protocol):
    """The interface to the texts of a loss, as rows of a batch."""

    is_trained: bool

    def rows_of(self, batch: GlobalBatch) -> tuple[Tensor, int]:
        """Returns the text row of each pair, int64 [B], and the number of rows."""
        ...

    def encode(self, batch: GlobalBatch, rows: range) -> Tensor:
        """Returns unit-length embeddings [len(rows), D], equal on every call."""
        ...


class Objective:
    """Takes the steps of one trial. Create it before a checkpoint is restored, while adapters have no effect.

    Attributes:
        parameters: all trainable parameters of the encoder and of the loss, by name.
    """

    def __init__(self, setup: TrialSetup, config: TrialConfig, context: RunContext) -> None:
        self.setup, self.config, self.context = setup, config, context
        device = setup.encoder.log_logit_scale.device
        self.texts: Texts = Captions(setup, config)
        self.parameters = dict(setup.adaptation.parameters)
        self.logit_bias: nn.Parameter | None = None
        if config.loss.kind == "siglip":
            start = torch.tensor(config.loss.logit_bias, device=device)
            self.logit_bias = self.parameters["loss.logit_bias"] = nn.Parameter(start)
        elif config.loss.kind == "class_prompt":
            self.texts = ClassPrompts(setup, config)
        elif config.loss.kind == "cross_entropy":
            self.texts = ClassVectors(setup, config)
            # No text is read, but weight decay would still change the text tower.
            text = setup.encoder.towers()["text"]
            self.parameters = {n: p for n, p in self.parameters.items() if not n.startswith(text)}
            self.parameters["loss.class_vectors"] = self.texts.vectors
        labels = setup.training.dataset.targets(setup.training.dataset.indices("train"))
        if config.loss.asks_for_classes and labels.ndim == 2:
            start = torch.from_numpy(log_odds(labels)).float().to(device)
            self.logit_bias = self.parameters["loss.logit_bias"] = nn.Parameter(start)
        self.compared: CaptionEmbeddings | None = None
        if config.loss.kind == "soft_target" and config.loss.positives == "caption":
            if setup.training.dataset.task == "multilabel":
                raise ConfigError(
                    "loss.positives=caption: soft_target then needs captions of one sentence, and those of "
                    "several findings have more; use loss.positives=class, which compares sets of findings"
                )
            # Similarities come from the untrained text tower, so training must not change them.
            self.compared = CaptionEmbeddings(setup)
            self.compared.of(every_sentence(setup.training.dataset, kind=config.data.captions))

    def choose_cut(self, batch: GlobalBatch) -> Cut:
        """Measures a few rows, and returns how every rank divides its rows of such a batch. Collective."""
        execution, encoder = self.config.execution, self.setup.encoder
        device = encoder.log_logit_scale.device
        if execution.micro_batch_size is not None and execution.memory_budget_gb is None:
            return Cut(execution.micro_batch_size, 1)
        group = Group.current(device)
        pairs, plan = self._as_rows(batch)
        weights = [*encoder.parameters(), *encoder.buffers()]
        try:
            towers = group.together(
                lambda: (
                    cost_of(pairs.encode_images, plan.image_share, pairs.trains_images, weights),
                    cost_of(pairs.encode_texts, plan.text_share, pairs.trains_texts, weights),
                )
            )
        except OutOfMemory:  # so few rows that there is nothing to choose
            return Cut(1, 1)
        budget = memory_budget(
            device, budget_gb=execution.memory_budget_gb, num_sharing=self.context.world_size
        )
        cut = choose_cut(budget, *towers, micro_batch_size=execution.micro_batch_size)
        # The smallest of any rank; -B means all rows at once.
        size, kept = group.maximum(-(cut.micro_batch_size or len(batch)), -cut.kept_graphs)
        return Cut(None if -size == len(batch) else -size, -kept)

    def step(self, batch: GlobalBatch, *, micro_batch_size: int | None, kept_graphs: int = 1) -> StepResult:
        """Adds the gradient of one global batch to the parameters. Collective; see `global_batch_step`."""
        pairs, plan = self._as_rows(batch)
        return global_batch_step(
            pairs,
            plan,
            self.config.loss,
            log_logit_scale=self.setup.encoder.log_logit_scale,
            logit_bias=self.logit_bias,
            group_vectors=self.compared.of(list(batch.distinct_captions)) if self.compared else None,
            parameters=list(self.parameters.values()),
            micro_batch_size=micro_batch_size,
            kept_graphs=kept_graphs,
            encoder_dtype=self.setup.encoder.dtype,
        )

    def _as_rows(self, batch: GlobalBatch) -> tuple[BatchEncoder, BatchPlan]:
        text_of_pair, num_texts = self.texts.rows_of(batch)
        classes = torch.from_numpy(batch.classes)
        plan = BatchPlan(
            text_of_pair,
            groups=classes if self.config.loss.positives == "class" else text_of_pair,
            rank=self.context.rank,
            world_size=self.context.world_size,
            classes=classes,
            num_texts=num_texts,
            labels=None if batch.labels is None else torch.from_numpy(batch.labels),
        )
        return BatchEncoder(self.setup, batch, self.texts, self.config.seed), plan


@dataclass
class BatchEncoder:
    """One global batch as a `PairEncoder`: encodes rows, with equal results on every call."""

    setup: TrialSetup
    batch: GlobalBatch
    texts: Texts
    seed: int

    @property
    def trains_images(self) -> bool:
        """Returns False if only the text tower is adapted or fine-tuned."""
        return self.setup.adaptation.adapts_image

    @property
    def trains_texts(self) -> bool:
        """Returns False if the text tower and its projection are frozen."""
        return self.texts.is_trained

    def encode_images(self, rows: range) -> Tensor:
        """Returns joint embeddings [m, D] of these rows of the global batch."""
        set_dropout_rows(self.setup.encoder, seed=self.seed, step=self.batch.step, image_rows=rows)
        places = np.arange(rows.start, rows.stop)
        activations = self.setup.training.activations.batch(
            self.batch.indices[places], self.batch.views[places]
        )
        return self.setup.encoder.encode_image_suffix(activations, self.setup.adaptation.image_cut).joint

    def encode_texts(self, rows: range) -> Tensor:
        """Returns joint embeddings [m, D] of these text rows."""
        return self.texts.encode(self.batch, rows)


class CaptionEmbeddings:
    """Caption embeddings. Each is computed once, with the weights of the text tower at that time."""

    def __init__(self, setup: TrialSetup) -> None:
        self.setup = setup
        self.known: dict[str, Tensor] = {}

    def of(self, captions: Sequence[str]) -> Tensor:
        """Returns embeddings [B, D] of captions, unit length."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.known]
        if new:
            self.known |= dict(zip(new, self.setup.embed_texts(new), strict=True))
        return torch.stack([self.known[caption] for caption in captions])


class Captions:
    """The distinct captions of a batch. The dropout row of a caption is the row of its first pair."""

    def __init__(self, setup: TrialSetup, config: TrialConfig) -> None:
        self.encoder, self.seed = setup.encoder, config.seed
        self.is_trained = setup.adaptation.adapts_text
        self.frozen = CaptionEmbeddings(setup)

    def rows_of(self, batch: GlobalBatch) -> tuple[Tensor, int]:
        """Returns the position of each pair's caption among the distinct captions."""
        return torch.from_numpy(batch.text_of_pair), len(batch.distinct_captions)

    def encode(self, batch: GlobalBatch, rows: range) -> Tensor:
        """Returns the embeddings of these distinct captions."""
        captions = list(batch.distinct_captions)[rows.start : rows.stop]
        if not self.is_trained:
            if len(self.frozen.known) > MAX_KNOWN:  # captions from reports hardly ever repeat
                self.frozen.known.clear()
            return self.frozen.of(captions)
        first_pair = [batch.distinct_captions[caption] for caption in captions]
        set_dropout_rows(self.encoder, seed=self.seed, step=batch.step, text_rows=first_pair)
        return self.encoder.encode_text(self.encoder.tokenize(captions))


def log_odds(labels: np.ndarray) -> np.ndarray:
    """Returns the log odds that each finding is present, where it is known, float64 [K].

    A bias that starts there needs no training for the frequency of a finding (Lin et al. 2017,
    arXiv:1708.02002, §4.1). Half an image is added to both counts, so that no finding is impossible.

    Args:
        labels: int8 [N, K], 1, 0 or -1 (unknown).
    """
    return np.log(((labels == 1).sum(0) + 0.5) / ((labels == 0).sum(0) + 0.5))


def class_of_pair(batch: GlobalBatch) -> Tensor:
    """Returns the class of each pair, int64 [B]; 0 with several findings, where the loss reads the labels."""
    return torch.from_numpy(batch.classes if batch.labels is None else np.zeros_like(batch.classes))


class ClassPrompts:
    """Class embeddings: normalized means of the training prompts, as in zero-shot classification.

    A finding is the difference to the mean of the contrary prompts, so that the logits are those of zero-shot
    by pairs. A similarity that all texts share cancels out.
    """

    def __init__(self, setup: TrialSetup, config: TrialConfig) -> None:
        self.encoder, self.seed = setup.encoder, config.seed
        self.is_trained = setup.adaptation.adapts_text
        self.frozen = CaptionEmbeddings(setup)
        prompts = prompts_of(setup.training.dataset, "training")
        self.prompts = list(prompts.of_class.values())
        self.contrary = list((prompts.contrary or {}).values())

    @cached_property
    def rows(self) -> dict[str, int]:
        """Returns the dropout row of each prompt: its number among all distinct prompts."""
        distinct = dict.fromkeys(chain(*self.prompts, *self.contrary))
        return {prompt: row for row, prompt in enumerate(distinct)}

    def rows_of(self, batch: GlobalBatch) -> tuple[Tensor, int]:
        """Returns each pair's class."""
        return class_of_pair(batch), len(self.prompts)

    def encode(self, batch: GlobalBatch, rows: range) -> Tensor:
        """Returns the embeddings of these classes."""
        of_class = torch.stack([self._mean(batch, self.prompts[k]) for k in rows])
        if not self.contrary:
            return of_class
        return of_class - torch.stack([self._mean(batch, self.contrary[k]) for k in rows])

    def _mean(self, batch: GlobalBatch, prompts: list[str]) -> Tensor:
        if not self.is_trained:
            embeddings = self.frozen.of(prompts)
        else:
            rows = [self.rows[prompt] for prompt in prompts]
            set_dropout_rows(self.encoder, seed=self.seed, step=batch.step, text_rows=rows)
            embeddings = self.encoder.encode_text(self.encoder.tokenize(prompts))
        return F.normalize(embeddings.mean(0), dim=0)


class ClassVectors:
    """A learned vector per class, initially random: an ordinary classification head without text."""

    is_trained = True

    def __init__(self, setup: TrialSetup, config: TrialConfig) -> None:
        encoder, self.num_classes = setup.encoder, len(setup.training.dataset.classes)
        generator = torch.Generator().manual_seed(config.seed)
        start = torch.randn(self.num_classes, encoder.joint_dim, generator=generator)
        self.vectors = nn.Parameter(F.normalize(start, dim=1).to(encoder.log_logit_scale.device))

    def rows_of(self, batch: GlobalBatch) -> tuple[Tensor, int]:
        """Returns each pair's class."""
        return class_of_pair(batch), self.num_classes

    def encode(self, batch: GlobalBatch, rows: range) -> Tensor:
        """Returns the vectors of these classes."""
        del batch
        return F.normalize(self.vectors[rows.start : rows.stop], dim=1)
