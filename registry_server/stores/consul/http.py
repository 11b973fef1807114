"""SHELL: requests to Consul's HTTP API; h11 makes and reads every byte of them."""

import asyncio
import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode

import h11

from registry_server.stores.base import StoreAway, StoreError
from registry_server.stores.consul.url import ConsulURL

# A request, beside what a blocking one waits.
ANSWER_S = 5.0
CONNECT_S = 2.0
MAX_IDLE = 16
CHUNK = 256 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024 * 1024
SHOWN_CHARS = 200
MAX_DIGITS = 20
# What a transaction is answered of which a part is not allowed: not 403.
_DENIED = b"Permission denied"


class TokenRefused(StoreError):
    """Consul refuses the token, or what it wants to do."""


class Answer(NamedTuple):
    """What Consul answered. `reached` is the index of what it answers about, 0 if it does not say."""

    status: int
    reached: int
    body: bytes

    @property
    def shown(self) -> str:
        """It for people: a line."""
        text = " ".join(self.body[: 4 * SHOWN_CHARS].decode(errors="replace").split())
        return f"{self.status} {''.join(it if it.isprintable() else '?' for it in text)[:SHOWN_CHARS]}"

    def json(self) -> object:
        """The body, read. Raises StoreAway if that is no JSON: it is not Consul who answers."""
        try:
            found: object = json.loads(self.body)
        except (ValueError, RecursionError):
            raise StoreAway("it answers with what is no JSON") from None
        return found


def next_index(index: int, answered: int) -> int:
    """What a blocking query asks for next: an index may go backwards, and then it begins anew; it is never below 1."""
    return max(1, answered) if answered >= index else 0


class Consul:
    """Connections to one agent at a time, the next one in the URL when one cannot be reached."""

    def __init__(self, url: ConsulURL) -> None:
        self._url = url
        self._endpoint = 0
        self._idle: list[_Connection] = []

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = ANSWER_S,
    ) -> Answer:
        """One request. Raises OSError, StoreAway when Consul cannot do it just now, TokenRefused."""
        parameters = dict(query or {}) | ({"dc": self._url.datacenter} if self._url.datacenter else {})
        target = quote(path) + (f"?{urlencode(parameters)}" if parameters else "")
        async with asyncio.timeout(timeout_s):
            answer = await self._answer(method, target, body)
        if answer.status == 403 or (answer.status == 409 and _DENIED in answer.body):
            self._close_idle()  # another token may be in the file by now
            raise TokenRefused(f"Consul refuses the token: {answer.shown}")
        if answer.status >= 500 or answer.status == 429:
            raise StoreAway(f"Consul cannot just now: {answer.shown}")
        return answer

    async def _answer(self, method: str, target: str, body: bytes) -> Answer:
        connection = self._reused() or await self._connected()
        try:
            answer = await connection.ask(method, target, body)
        except BaseException:
            connection.close()
            raise
        if connection.is_open and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _reused(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
        return None

    async def _connected(self) -> "_Connection":
        endpoint = self._url.endpoints[self._endpoint % len(self._url.endpoints)]
        host, _, port = endpoint.rpartition(":")
        token = self._url.read_token()
        context = self._url.tls.context() if self._url.tls is not None else None
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
        except TimeoutError:
            self._endpoint += 1
            raise StoreAway(f"{endpoint}: no connection within {CONNECT_S:g} s") from None
        except OSError as error:
            self._endpoint += 1
            raise StoreAway(f"{endpoint}: {error.strerror or error}") from None
        return _Connection(reader, writer, endpoint, token)

    def _close_idle(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def aclose(self) -> None:
        """Close what is idle; what is under way is its caller's."""
        self._close_idle()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, token: str) -> None:
        self._reader = reader
        self._writer = writer
        self._headers = [("Host", authority), ("User-Agent", "grpc-registry")]
        if token:
            self._headers.append(("X-Consul-Token", token))
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether it can be asked again."""
        return self._h11.our_state is h11.IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        self._writer.transport.abort()

    async def ask(self, method: str, target: str, body: bytes) -> Answer:
        request = h11.Request(
            method=method, target=target, headers=[*self._headers, ("Content-Length", str(len(body)))]
        )
        try:
            self._writer.write(self._sent(request) + self._sent(h11.Data(data=body)) + self._sent(h11.EndOfMessage()))
            await self._writer.drain()
            return await self._read()
        except h11.RemoteProtocolError as error:
            raise StoreAway(f"it does not answer as Consul does: {error}") from None

    def _sent(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""

    async def _read(self) -> Answer:
        status, index, body = 0, 0, bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                if not (data := await self._reader.read(CHUNK)) and status == 0:
                    raise StoreAway("it hung up without an answer")
                self._h11.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                index = _number(dict(event.headers).get(b"x-consul-index", b"0"))
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise StoreAway(f"it answers with more than {MAX_BODY_BYTES} bytes")
            elif not isinstance(event, h11.InformationalResponse):
                break
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return Answer(status, index, bytes(body))


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < MAX_DIGITS else 0
