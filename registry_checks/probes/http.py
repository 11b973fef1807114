"""SHELL: one HTTP/1.1 request over a connection of its own; h11 makes and reads every byte of it.

What answers may be anything: what is read of it is bounded, it is followed nowhere, and nothing of it is kept but a
short answer and a line for people.
"""

import asyncio
import ssl
from http import HTTPStatus

import h11

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.probes.base import Failed, Target
from registry_checks.probes.reach import Reach
from registry_checks.rules import DEFAULT_STATUSES, shown

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
# Of all that comes: a head, a body, and what is said between them.
MAX_BYTES = 128 * 1024
CHUNK = 16 * 1024
MAX_KEPT_BYTES = 256


class HttpProbe:
    """Asks an instance as its check says."""

    def __init__(
        self, target: Target, check: pb.HealthCheck.Http, reach: Reach, context: ssl.SSLContext | None
    ) -> None:
        self._target = target
        self._check = check
        self._port = check.port or target.port
        self._reach = reach
        self._context = context
        self._answer, self._text = (0, b""), ""  # the last one that was good, and what was said of it
        self._host = check.host or _authority(target.host, self._port, 443 if check.tls else 80)
        self._statuses = frozenset(check.statuses) or DEFAULT_STATUSES
        self._request = h11.Request(
            method=check.method,
            target=check.path,
            headers=[
                ("Host", self._host),
                ("Connection", "close"),
                *({"User-Agent": "grpc-registry", "Accept": "*/*"} | dict(check.headers)).items(),
            ],
        )

    async def look(self) -> str:
        """See Probe."""
        name = _without_port(self._host) if self._context else None
        reader, writer = await self._reach.connect(self._target.host, self._port, self._context, name)
        try:
            status, body = await self._ask(reader, writer)
        except h11.RemoteProtocolError as error:
            raise Failed(f"no HTTP: {error}") from None
        finally:
            writer.transport.abort()
        if (status, body) != self._answer or not self._text:
            self._text = self._judge(status, body)
            self._answer = (status, body) if len(body) <= MAX_KEPT_BYTES else (0, b"")
        return self._text

    async def aclose(self) -> None:
        """No connection is kept."""

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        writer.write((connection.send(self._request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        status, body, read = 0, bytearray(), 0
        while len(body) < MAX_BODY_BYTES:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if read > MAX_BYTES:
                    raise Failed(f"it answers with more than {MAX_BYTES} bytes and comes to no end")
                data = await reader.read(CHUNK)
                if not data and not read:
                    raise Failed("it hung up without an answer")
                read += len(data)
                connection.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                break
        return status, bytes(body[:MAX_BODY_BYTES])

    def _judge(self, status: int, body: bytes) -> str:
        text = shown(f"{_spelled(status)}: {body[:1024].decode(errors='replace')}").rstrip(": ")
        if status not in self._statuses:
            raise Failed(text)
        if self._check.body not in body:
            raise Failed(f"the body lacks {self._check.body[:64]!r}: {text}")
        return text


def _spelled(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _authority(host: str, port: int, default_port: int) -> str:
    shown_host = f"[{host}]" if ":" in host else host
    return shown_host if port == default_port else f"{shown_host}:{port}"


def _without_port(authority: str) -> str:
    host, bracket, _ = authority.partition("]")
    return host.strip("[") if bracket else authority.partition(":")[0]
