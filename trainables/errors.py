"""The errors that a user can correct. The command line prints one message and exits with status 2."""


class UserError(Exception):
    """A mistake that the user can correct. The message says where it is, what is wrong and what to do."""


class ConfigError(UserError):
    """An invalid configuration: an unknown key, an impossible value, a target module without a match."""


class DataError(UserError):
    """Data or a stored file that is missing or damaged, or that would leak between splits."""


class ClusterError(UserError):
    """A machine or cluster that lacks something that a sweep needs."""


class TrainingDiverged(UserError):
    """Training diverged, so the model cannot be scored. The message gives the step and a remedy."""


class WeightsUnavailable(UserError):
    """Pretrained weights are missing. The trial becomes `unavailable`, and never uses random weights."""
