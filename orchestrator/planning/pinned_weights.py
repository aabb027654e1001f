"""Pins the weights of each model at first use, so that all trials of a driver start from equal weights."""

from __future__ import annotations

from orchestrator.planning.checks import how_to_mend
from orchestrator.planning.identity import Identity, Weights, by_name, find_model, find_weights, identify
from trainables.config import BaselineConfig, CaptionerConfig, EncoderConfig, TrialConfig
from trainables.errors import DataError, WeightsUnavailable
from trainables.models.catalogue.captioners import known_captioner
from trainables.shell import command

GO_ON = f"after this sweep has ended, run {command('sweep --resume NAME --retry-failed')}"


class PinnedWeights:
    """The weights that each model and captioner had at first use.

    If weights are converted or fetched during a sweep, all trials of an arm still use the same weights.
    """

    def __init__(self) -> None:
        self._models: dict[EncoderConfig | BaselineConfig, tuple[str, str | None]] = {}
        self._captioners: dict[CaptionerConfig, str | None] = {}

    def find(self, config: TrialConfig) -> Weights:
        """Returns the pinned weights of a trial."""
        model, captioner = config.model_to_load, config.captioner
        if model not in self._models:
            self._models[model] = find_model(config)
        if config.needs_captioner and captioner not in self._captioners:
            self._captioners[captioner] = known_captioner(captioner)
        return Weights(*self._models[model], self._captioners[captioner] if config.needs_captioner else None)

    def identify(self, config: TrialConfig) -> Identity:
        """Returns the identity of a trial with its pinned weights."""
        return identify(config, self.find)

    def check(self, config: TrialConfig) -> None:
        """Checks that the current weights of a trial equal its pinned weights.

        Raises:
            WeightsUnavailable: the weights were missing at first use.
            DataError: the weights have changed. If weights are missing now, the trial reports that itself.
        """
        first, now = self.find(config), find_weights(config)
        here = by_name(config, now.model, now.captioner)
        for name, then in by_name(config, first.model, first.captioner).items():
            if then is None:
                steps = [how_to_mend(config, name, is_here=False)] if here[name] is None else []
                raise WeightsUnavailable(
                    f"{name}: its weights were not on this machine at the start of this sweep, and weights "
                    f"that are added during a sweep are not used; {'; '.join([*steps, GO_ON])}"
                )
            if here[name] not in (None, then):
                raise DataError(
                    f"{name}: its weights changed during the sweep ({then} at first, {here[name]} now), "
                    f"so its trials cannot be compared; restore the first weights, and {GO_ON}"
                )
