"""A name server of the test's own: answers every question for an IPv4 address with the address it is told to.

It is asked by those who say so to gRPC (`target`); `asked_by_sockets` has it answer the others in this process as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

_A = 1
NAME = "back-end.example"


class Names(asyncio.DatagramProtocol):
    """`target(port)` is a gRPC target that is resolved here; `address` may change at any time."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked = 0
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def target(self, port: int) -> str:
        return f"dns://127.0.0.1:{self.port}/{NAME}:{port}"

    def asked_by_sockets(self, patch: pytest.MonkeyPatch) -> None:
        real = socket.getaddrinfo

        def getaddrinfo(host: str, *args: Any, **more: Any) -> Any:
            return real(self.address if host == NAME else host, *args, **more)

        patch.setattr(socket, "getaddrinfo", getaddrinfo)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        question_end = data.index(b"\0", 12) + 5
        (kind,) = struct.unpack_from(">H", data, question_end - 4)
        answers = [struct.pack(">HHHIH", 0xC00C, _A, 1, 0, 4) + socket.inet_aton(self.address)] if kind == _A else []
        self.asked += len(answers)
        header = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(answers), 0, 0)
        assert self._transport is not None
        self._transport.sendto(header + data[12:question_end] + b"".join(answers), peer)


@contextlib.asynccontextmanager
async def name_server(address: str) -> AsyncIterator[Names]:
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(lambda: Names(address), local_addr=("127.0.0.1", 0))
    names.port = transport.get_extra_info("sockname")[1]
    try:
        yield names
    finally:
        transport.close()
