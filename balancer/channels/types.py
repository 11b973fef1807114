"""Names for what passes through a channel untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import grpc

Serializer: TypeAlias = Callable[[object], bytes]
Deserializer: TypeAlias = Callable[[bytes], object]
Metadatum: TypeAlias = tuple[str, str | bytes]
Metadata: TypeAlias = Iterable[Metadatum]

Arguments: TypeAlias = tuple[
    float | None, Metadata | None, grpc.CallCredentials | None, bool | None, grpc.Compression | None
]
"""timeout in seconds, metadata, credentials, wait_for_ready, compression: what a caller gave beside the request."""
