"""Which weights the trials of one driver stand on, whatever is converted or fetched while it runs."""

from __future__ import annotations

from orchestrator.planning.checks import how_to_mend
from orchestrator.planning.identity import Identity, Weights, by_name, find_model, find_weights, identify
from trainables.config import BaselineConfig, CaptionerConfig, EncoderConfig, TrialConfig
from trainables.errors import DataError, WeightsUnavailable
from trainables.models.catalogue.captioners import known_captioner
from trainables.shell import command

GO_ON = f"once this sweep has ended: {command('sweep --resume NAME --retry-failed')}"


class PinnedWeights:
    """What a driver found when it first looked for each model and captioner; as long as it runs, that holds.

    With what is converted or fetched meanwhile, an arm would stand on both and a trial run under two keys.
    """

    def __init__(self) -> None:
        self._models: dict[EncoderConfig | BaselineConfig, tuple[str, str | None]] = {}
        self._captioners: dict[CaptionerConfig, str | None] = {}

    def find(self, config: TrialConfig) -> Weights:
        """Returns `find_weights`, as it was at first."""
        model, captioner = config.model_to_load, config.captioner
        if model not in self._models:
            self._models[model] = find_model(config)
        if config.needs_captioner and captioner not in self._captioners:
            self._captioners[captioner] = known_captioner(captioner)
        return Weights(*self._models[model], self._captioners[captioner] if config.needs_captioner else None)

    def identify(self, config: TrialConfig) -> Identity:
        """Returns `identify`, on the weights of the first look."""
        return identify(config, self.find)

    def check(self, config: TrialConfig) -> None:
        """Compares the weights that are here now with those of the first look.

        Raises:
            WeightsUnavailable: there were none.
            DataError: they are others. What is gone is no matter here: a trial says itself what it misses.
        """
        first, now = self.find(config), find_weights(config)
        here = by_name(config, now.model, now.captioner)
        for name, then in by_name(config, first.model, first.captioner).items():
            if then is None:
                steps = [how_to_mend(config, name, is_here=False)] if here[name] is None else []
                raise WeightsUnavailable(
                    f"{name}: its weights were not here when this driver first looked for them, and those "
                    f"that come while it runs are for the next one; {'; '.join([*steps, GO_ON])}"
                )
            if here[name] not in (None, then):
                raise DataError(
                    f"{name}: its weights were exchanged while the sweep runs ({then} at first, {here[name]} "
                    f"now), and trials on both would not compare; put the first ones back, and {GO_ON}"
                )
