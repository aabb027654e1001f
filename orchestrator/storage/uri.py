"""Parses storage URIs: a folder, `s3://BUCKET/FOLDER` or `gs://BUCKET/FOLDER`, without credentials."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError

# Imports inside functions: pyarrow loads only where a storage is used.

STORAGE_VARIABLE = "CLIP_ORCHESTRATOR_STORAGE"
CONNECT_SECONDS = 5.0
SDK_ATTEMPTS = 2
"""Tries of the S3 client in each attempt of ours. Few, so that a dead storage is noticed within seconds."""
OPTIONS = {"s3": ("endpoint_override", "region", "scheme"), "gs": ("endpoint_override", "scheme")}
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
FORMS = "use a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"


@dataclass(frozen=True)
class StoragePlace:
    """A parsed storage URI. `path` is a folder, or `bucket/folder`."""

    kind: str  # "folder", "s3" or "gs"
    path: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def uri(self) -> str:
        """The URI for all nodes. It has an absolute folder, or the endpoint of this environment."""
        if self.kind == "folder":
            return self.path
        return f"{self.kind}://{self.path}" + (
            f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        )

    def open(self) -> Any:
        """Returns a pyarrow file system. Credentials come from the environment of this process."""
        # Loading pyarrow takes a moment, and commands without a storage do not need it.
        from pyarrow import fs

        options: dict[str, Any] = dict(self.options)
        if self.kind == "folder":
            return fs.LocalFileSystem()
        if self.kind == "gs":
            return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=15), **options)
        patience = fs.AwsStandardS3RetryStrategy(max_attempts=SDK_ATTEMPTS)
        # With delayed opening, a small file needs one request; an error is reported when the file is closed.
        own = {"allow_delayed_open": True, "connect_timeout": CONNECT_SECONDS, "retry_strategy": patience}
        return fs.S3FileSystem(**own, **options)


def read_uri(text: str) -> StoragePlace:
    """Returns the parsed URI of a storage, without connecting to it.

    Raises:
        ConfigError: the URI has an unknown kind or option, no bucket, or a credential.
    """
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme in ("", "file"):
        folder = text.removeprefix("file://")
        if not folder.strip():
            raise ConfigError(f"storage '{text}': no folder given; {FORMS}")
        return StoragePlace("folder", os.path.abspath(Path(folder).expanduser()))
    if scheme not in OPTIONS:
        raise ConfigError(f"storage '{scheme}://…': unknown kind of storage; {FORMS}")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ConfigError(
            f"storage '{scheme}://…@…': the URI is recorded, so it must not contain credentials; set them in "
            "environment variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or use a profile or role"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", parts.netloc):
        raise ConfigError(f"storage '{scheme}://{parts.netloc}…': no valid bucket name; {FORMS}")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in given:
        if name not in OPTIONS[scheme]:
            hint = did_you_mean(name, OPTIONS[scheme]) or f" (known: {', '.join(OPTIONS[scheme])})"
            raise ConfigError(f"storage '{scheme}://{parts.netloc}': no option '{name}'{hint}")
    if scheme == "s3" and "endpoint_override" not in given:
        found = next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), None)
        given |= {"endpoint_override": found} if found else {}
    path = f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
    return StoragePlace(scheme, path, tuple(sorted(_with_bare_endpoint(given).items())))


def _with_bare_endpoint(options: dict[str, str]) -> dict[str, str]:
    """Moves `http://` from the endpoint into the option `scheme`, because the SDK expects it there."""
    scheme, found, address = options.get("endpoint_override", "").partition("://")
    if "@" in options.get("endpoint_override", ""):
        raise ConfigError(
            "storage: the endpoint is recorded, so it must not contain credentials; set environment variables"
        )
    if not found:
        return options
    return {"scheme": scheme, **options, "endpoint_override": address.rstrip("/")}
