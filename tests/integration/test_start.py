"""A server that starts: what takes long is done before anybody can wait for it."""

import socket

from registry_server.config import Config
from registry_server.server import serve
from tests.support.etcd import free_port


async def test_the_port_is_closed_until_all_is_loaded_and_looked_through() -> None:
    port, open_then = free_port(), []

    def loaded() -> None:
        open_then.append(is_open(port))

    async with serve(Config(listen=f"127.0.0.1:{port}"), loaded=loaded):
        assert is_open(port)
    assert open_then == [False]


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
