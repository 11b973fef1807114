"""SHELL: the last view on disk, so that a process can start while the registry is away."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from protos.registry.v1 import registry_pb2 as pb
from registry_client.instance import Instance
from registry_client.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

_MAGIC = b"grpc-registry view 1\n"
_SAVED_AT = struct.Struct(">d")
_DIGEST_BYTES = hashlib.sha256().digest_size


def default_dir() -> Path:
    """`$XDG_CACHE_HOME/grpc-registry`, by default in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.cache").expanduser()) / "grpc-registry"


@dataclass(frozen=True, slots=True)
class Saved:
    """A view as it was read back; its age in seconds by the wall clock, which may have been set since."""

    view: View
    token: str
    age_s: float


class ViewFile:
    """The file of one question to one registry. Reading and writing block; neither raises for what is on disk."""

    def __init__(self, directory: Path, addresses: Sequence[str], question: pb.WatchRequest) -> None:
        named = "\n".join(sorted(addresses)).encode() + b"\0" + question.SerializeToString(deterministic=True)
        self.path = directory / f"{hashlib.sha256(named).hexdigest()[:32]}.view"
        self._lock = threading.Lock()
        self._written_at_s = float("-inf")

    def write(self, view: View, token: str, now_wall_s: float) -> None:
        """Replace the file at once, or leave it as it is and say so in the log. A later view is never replaced."""
        content = _encode(view, token, now_wall_s)
        with self._lock:
            if now_wall_s >= self._written_at_s:
                self._written_at_s = now_wall_s
                self._replace(content)

    def _replace(self, content: bytes) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".view-", dir=self.path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                Path(name).replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            log.warning("the view could not be saved to %s: %s", self.path, error)

    def read(self, now_wall_s: float) -> Saved | None:
        """What was written last, or None when there is nothing or it is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the saved view %s could not be read: %s", self.path, error)
            return None
        try:
            return _decode(content, now_wall_s)
        except (ValueError, DecodeError) as error:
            log.warning("the saved view %s is damaged and ignored: %s", self.path, error)
            return None


def _encode(view: View, token: str, saved_at_s: float) -> bytes:
    message = pb.WatchResponse(reset=True, resume_token=token)
    message.header.epoch, message.header.revision = view.epoch, view.revision
    message.upserts.extend(instance.to_proto() for instance in view.instances)
    payload = _SAVED_AT.pack(saved_at_s) + message.SerializeToString()
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def _decode(content: bytes, now_wall_s: float) -> Saved:
    if not content.startswith(_MAGIC):
        raise ValueError("not a view of this version")
    digest, payload = content[len(_MAGIC) :][:_DIGEST_BYTES], content[len(_MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("the checksum does not match")
    (saved_at_s,) = _SAVED_AT.unpack_from(payload)
    message = pb.WatchResponse.FromString(payload[_SAVED_AT.size :])
    instances = (Instance.from_proto(it) for it in message.upserts)
    view = View({it.key: it for it in instances}, message.header.epoch, message.header.revision, None)
    return Saved(view, message.resume_token, max(0.0, now_wall_s - saved_at_s))
