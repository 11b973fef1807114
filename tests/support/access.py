"""Servers that ask who calls, and callers of every kind: tokens of identities, by what they were granted."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from registry_server.access.grants import Grant, Grants
from registry_server.access.identities import Access, Identity, Token
from registry_server.config import Config
from registry_server.server import serve

TIMEOUT_S = 20.0
# Of the service that tests ask for: each right to it, and whoever has them all to another one.
IDENTITIES: dict[str, list[str]] = {
    "reader": ["read default/player"],
    "owner": ["register default/player"],
    "neighbour": ["register default/player"],
    "operator": ["operate default/player"],
    "admin": ["admin default/player"],
    "elsewhere": ["admin default/chat", "admin prod/*"],
    "root": ["admin */*"],
    "nothing": [],
}


def token(name: str) -> str:
    """The token of an identity."""
    return f"rg_{name}-{'0' * 40}"


def granted(identities: Mapping[str, Sequence[str]] = IDENTITIES, anonymous: Sequence[str] = ()) -> Access:
    """Identities with these grants, each with its token."""
    made = [Identity(name, (Token.of(token(name)),), (), _grants(given)) for name, given in identities.items()]
    return Access(tuple(made), _grants(anonymous))


def _grants(given: Sequence[str]) -> Grants:
    return Grants(map(Grant.parse, given))


def file_of(identities: Mapping[str, Sequence[str]] = IDENTITIES, anonymous: Sequence[str] = ()) -> str:
    """The same as a file of TOML."""
    lines = ["[access]", f"anonymous = {list(anonymous)}"]
    for name, given in identities.items():
        lines += [f"[access.identities.{name}]", f'tokens = ["{Token.of(token(name))}"]', f"grants = {list(given)}"]
    return "\n".join(lines) + "\n"


@dataclass
class Asked:
    """A server that asks, and a channel to it."""

    address: str
    channel: grpc.aio.Channel
    calls: list[Any] = field(default_factory=list)

    def metadata(self, who: str) -> tuple[tuple[str, str], ...]:
        """What somebody shows; nothing for ''."""
        return (("authorization", f"Bearer {token(who)}"),) if who else ()

    async def ask(self, path: str, request: Any, who: str = "") -> bytes:
        """The answer to a unary call, encoded."""
        call: Any = self.channel.unary_unary(path, request_serializer=type(request).SerializeToString)
        return await call(request, metadata=self.metadata(who), timeout=TIMEOUT_S)  # type: ignore[no-any-return]

    def stream(self, path: str, request: Any, who: str = "") -> Any:
        """A call with one request and a stream of answers."""
        call: Any = self.channel.unary_stream(path, request_serializer=type(request).SerializeToString)
        return call(request, metadata=self.metadata(who), timeout=TIMEOUT_S)

    def talk(self, path: str, who: str = "", requests: Iterable[bytes] | None = None) -> Any:
        """A call with streams of both; what is not given is to be written, encoded."""
        call: Any = self.channel.stream_stream(path)
        return call(requests, metadata=self.metadata(who), timeout=TIMEOUT_S)


@contextlib.asynccontextmanager
async def asking(transport: str, access: Access, **settings: Any) -> AsyncIterator[Asked]:
    """A server in this process that knows these."""
    config = Config(**{"listen": "127.0.0.1:0", "transport": transport, "access": access, **settings})
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with serve(config) as listening:
        address = listening.replace("0.0.0.0", "127.0.0.1")
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            yield Asked(address, channel)
