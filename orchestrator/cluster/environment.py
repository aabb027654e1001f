"""Sets environment variables, which Ray, MLflow, Hugging Face and torch read when they are imported."""

from __future__ import annotations

import os

from trainables.launch import ALLOCATOR

SECURE = {
    "RAY_AUTH_MODE": "token",  # Ray 2.60 leaves a cluster open unless a token file happens to exist
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""Variables that are always set."""
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local Ray binds every socket to 127.0.0.1 (`ss -ltn`)
}
"""Variables for a local Ray only. With these, a driver could not connect to a cluster."""
QUIET = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # otherwise each retry of a download prints a line
    "TOKENIZERS_PARALLELISM": "false",
    **ALLOCATOR,
}
"""Variables that are set unless the user has set them."""


def secure_environment() -> None:
    """Sets the variables `SECURE` and `QUIET` for this process. Call this before Ray is imported."""
    os.environ.update(SECURE)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
