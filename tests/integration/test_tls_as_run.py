"""TLS of the server as it is run: as a process, on its own event loop, stopped in the middle of handshakes."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import ServerFactory
from tests.support.registryctl import ctl
from tests.support.servers import NO_PAGE, ROOT
from tests.support.tls import LOCAL, Authority
from tests.support.waiting import eventually_async

HALF_A_HELLO = b"\x16\x03\x01"


async def test_a_server_over_mutual_tls(server_factory: ServerFactory, tmp_path: Path) -> None:
    """What is shown, who is refused and what is said; files that change; a handshake under way when it stops."""
    authority = Authority()
    files, ca = authority.pair(*LOCAL).write(tmp_path), authority.write(tmp_path)
    mine = authority.pair("game.example").write(tmp_path, "mine")
    strange = Authority().pair("game.example").write(tmp_path, "strange")
    args = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-client-ca", str(ca)]
    server = await server_factory(args=args).start_async()
    told = ["--server", server.address, "--tls-ca", str(ca), "--timeout", "1"]

    shows = ["--tls-cert", str(mine.cert), "--tls-key", str(mine.key)]
    assert (await ctl(*told, *shows, "services")).exit_code == 0
    assert (await ctl("-s", server.address, "services", "--tls-ca", str(ca), *shows)).exit_code == 0
    for mistake, line in (
        (["-s", server.address, "--timeout", "1"], "speaks TLS: connect with credentials"),
        (told, "it asks for a certificate of its clients, and was shown none"),
        ([*told, "--tls-cert", str(strange.cert), "--tls-key", str(strange.key)], "it does not know the authority of"),
    ):
        refused = await ctl(*mistake, "services")
        assert refused.exit_code == 3
        assert line in refused.stderr.splitlines()[-1]

    before = await shown(server.address)
    authority.pair(*LOCAL).write(tmp_path)

    async def is_another() -> bool:
        return await shown(server.address) != before

    await eventually_async(is_another)
    assert (await ctl(*told, *shows, "services")).exit_code == 0

    with ExitStack() as stack:
        half = [stack.enter_context(socket.create_connection((server.host, server.port))) for _ in range(3)]
        for each in half:
            each.sendall(HALF_A_HELLO)
        # They are known to the server: it has accepted who came after them.
        assert await shown(server.address) != before
        assert await server.terminate_async() == 0
        for each in half:
            each.settimeout(5)
            assert each.recv(1) == b""
    lines = server.log_lines
    for kind in ("speaks no TLS", "shows no certificate", "shows a certificate that is not accepted", "was read again"):
        assert sum(kind in line for line in lines) == 1, server.log_text
    assert len(lines) == 4, server.log_text


async def shown(address: str) -> str:
    """The certificate that is shown to who comes now."""
    host, _, port = address.rpartition(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    authority = Authority()
    files, other = authority.pair(*LOCAL).write(tmp_path), authority.pair(*LOCAL).write(tmp_path, "other")
    done = subprocess.run(
        [sys.executable, "-m", "registry_server", "--listen", "127.0.0.1:0"],
        env={**os.environ, **NO_PAGE, "REGISTRY_TLS_CERT": str(files.cert), "REGISTRY_TLS_KEY": str(other.key)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"registry-server: tls_key: {other.key}: is not the key of {files.cert}\n"


def test_whoever_is_asked_for_a_password_is_nobody(tmp_path: Path) -> None:
    """A key that needs one is refused, and not asked for at a terminal where nobody is."""
    files = Authority().pair(*LOCAL).write(tmp_path)
    files.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n")
    flags = ["--listen", "127.0.0.1:0", "--tls-cert", str(files.cert), "--tls-key", str(files.key)]
    with subprocess.Popen(
        [sys.executable, "-m", "registry_server", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.send_signal(signal.SIGKILL)
    assert "needs a password: write the key without one" in said
