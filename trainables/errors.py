"""The errors a user can cause: the command line prints them as one message and exits with status 2."""


class UserError(Exception):
    """A mistake that the user can correct; the message says where, what is wrong and what to do."""


class ConfigError(UserError):
    """A configuration that cannot hold: an unknown key, an impossible value, a target without a match."""


class DataError(UserError):
    """Data or a stored file that is missing, corrupt, or would leak between splits."""


class ClusterError(UserError):
    """A machine or cluster that cannot give what a sweep needs."""


class TrainingDiverged(UserError):
    """Training left the range in which a model can be scored; the message gives step and remedy."""


class WeightsUnavailable(UserError):
    """Pretrained weights are not here. The row becomes `unavailable`; nothing random takes its place."""
