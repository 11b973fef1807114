"""TLS towards the registry: with the right authority, with a wrong one, and without any."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_client import TLS, Instance, RegistryUnavailable
from registry_client.link import speaks_tls
from registry_client.tls import trouble_with_any
from registry_server.config import TRANSPORTS, Config
from registry_server.server import serve
from tests.integration.client.test_registering import nobody_there
from tests.support.counting import counting
from tests.support.fake_registry import FakeRegistry, serving
from tests.support.proxy import Proxy
from tests.support.tls import LOCAL, Authority, Pair
from tests.support.waiting import eventually_async


class Registry(registry_pb2_grpc.RegistryServicer):
    """Answers one question, behind TLS."""

    async def ListServices(
        self,
        request: pb.ListServicesRequest,
        context: grpc.aio.ServicerContext[pb.ListServicesRequest, pb.ListServicesResponse],
    ) -> pb.ListServicesResponse:
        return pb.ListServicesResponse(services=[pb.ServiceSummary(namespace="default", service="player", instances=1)])


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def address(authority: trustme.CA) -> AsyncIterator[str]:
    cert = authority.issue_cert("127.0.0.1", "localhost")
    pair = (cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes())
    server = grpc.aio.server()
    registry_pb2_grpc.add_RegistryServicer_to_server(Registry(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    yield f"localhost:{port}"
    await server.stop(None)


def trusting(authority: trustme.CA) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes())


async def test_the_right_authority_is_trusted(address: str, authority: trustme.CA) -> None:
    async with registry_client.connect(address, credentials=trusting(authority)) as registry:
        assert [it.service for it in await registry.services()] == ["player"]


async def test_a_registry_that_greets_late_is_reached(address: str, authority: trustme.CA) -> None:
    """It is busy, or far away: connecting is given more time after each time that was too little."""
    async with Proxy(address, late_s=1.3) as late:
        there = f"localhost:{late.port}"
        async with registry_client.connect(there, credentials=trusting(authority), timeout=30.0) as registry:
            assert [it.service for it in await registry.services()] == ["player"]


async def test_a_tls_port_that_is_called_without_tls_is_named(address: str) -> None:
    for _ in range(2):
        async with registry_client.connect(address, cache_dir=None, timeout=1.0) as registry:
            with pytest.raises(RegistryUnavailable, match=f"list services: {address}: speaks TLS: connect with cred"):
                await registry.services()
            registration = registry.register(Instance("player", "10.0.0.5", 8001), timeout=1.0)
            with pytest.raises(RegistryUnavailable, match="speaks TLS: connect with credentials") as caught:
                await registration
            assert "\n" not in str(caught.value)


async def test_a_port_without_tls_that_is_called_with_it_is_named(authority: trustme.CA) -> None:
    async with (
        serving(FakeRegistry()) as address,
        registry_client.connect(address, credentials=trusting(authority), cache_dir=None, timeout=1.0) as registry,
    ):
        with pytest.raises(RegistryUnavailable, match="speaks no TLS: connect without credentials") as caught:
            await registry.services()
        assert "\n" not in str(caught.value)


async def test_a_certificate_that_is_not_trusted_is_named(address: str) -> None:
    stranger, numeric = trusting(trustme.CA()), address.replace("localhost", "127.0.0.1")
    async with registry_client.connect(numeric, credentials=stranger, cache_dir=None, timeout=1.0) as registry:
        with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await registry.services()
        assert "\n" not in str(caught.value)


async def test_whether_a_port_speaks_tls(address: str) -> None:
    assert await speaks_tls(address) is True
    async with serving(FakeRegistry()) as plain:
        assert not await speaks_tls(plain)
    assert await speaks_tls(nobody_there()) is None


async def test_others_are_not(address: str) -> None:
    for credentials in (trusting(trustme.CA()), None):
        async with registry_client.connect(address, credentials=credentials, timeout=0.5) as registry:
            with pytest.raises(RegistryUnavailable):
                await registry.services()


# ---- against the server itself


@asynccontextmanager
async def serving_tls(
    directory: Path, pair: Pair, transport: str = "http2", clients: Authority | None = None
) -> AsyncIterator[str]:
    """A registry over TLS, in this loop, which shows that; its address by name."""
    files = pair.write(directory)
    client_ca = str(clients.write(directory, "clients")) if clients else ""
    config = Config(
        "localhost:0", transport=transport, tls_cert=str(files.cert), tls_key=str(files.key), tls_client_ca=client_ca
    )
    async with serve(config) as address:
        yield address


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_all_that_a_client_does_over_mutual_tls(tmp_path: Path, transport: str) -> None:
    """Each way to say what it shows leads to the same."""
    authority = Authority()
    ca, mine = authority.write(tmp_path), authority.pair("game.example").write(tmp_path, "mine")
    tls = TLS(ca, mine.cert, mine.key)
    async with (
        serving_tls(tmp_path, authority.pair(*LOCAL), transport, authority) as address,
        registry_client.connect(address, tls=tls) as registry,
        registry.register(Instance("player", "127.0.0.1", 8001)),
        registry.watch("player") as watch,
    ):
        assert len((await anext(watch)).instances) == 1
        table = {"ca": str(ca), "cert": str(mine.cert), "key": str(mine.key)}
        pems = TLS(*(it.read_bytes() for it in (ca, mine.cert, mine.key)))
        for other in (
            registry_client.from_config({"addresses": address, "tls": table}),
            registry_client.connect_many({"one": address}, tls=tls),
            registry_client.connect(address, tls=pems),
        ):
            async with other:
                assert len(await other.list("player")) == 1
        assert await asyncio.to_thread(listed_by_threads, address, tls) == 1


def listed_by_threads(address: str, tls: TLS) -> int:
    with registry_client.sync.connect(address, tls=tls) as registry:
        return len(registry.list("player"))


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("other authority", "its certificate is not accepted: "),
        ("expired", "its certificate is not accepted: certificate has expired"),
        ("other name", "its certificate is for another name than the one that was called"),
        ("no tls", "speaks TLS: connect with credentials"),
        ("no certificate", "it asks for a certificate of its clients, and was shown none"),
        ("stranger", "it does not know the authority of this client's certificate"),
        ("expired client", "this client's certificate has expired"),
    ],
)
async def test_what_goes_wrong_is_one_line(
    mistake: str, line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    names = ("elsewhere.example",) if mistake == "other name" else LOCAL
    pair = authority.pair(*names, expired=mistake == "expired")
    asks = authority if mistake in ("no certificate", "stranger", "expired client") else None
    trusted = Authority() if mistake == "other authority" else authority
    shown = {
        "stranger": lambda: Authority().pair("game.example"),
        "expired client": lambda: authority.pair("game.example", expired=True),
    }.get(mistake)
    mine = shown().write(tmp_path, "mine") if shown else None
    tls = None if mistake == "no tls" else TLS(trusted.write(tmp_path), mine and mine.cert, mine and mine.key)
    async with (
        serving_tls(tmp_path, pair, clients=asks) as address,
        registry_client.connect(address, tls=tls, timeout=1.0, cache_dir=None) as registry,
    ):
        with pytest.raises(RegistryUnavailable) as failed:
            await registry.services()
        assert line in str(failed.value)
        assert re.match(r"list services: \S+:\d+: ", str(failed.value))
        assert "\n" not in str(failed.value)
        with pytest.raises(RegistryUnavailable, match=re.escape(line)):
            await registry.register(Instance("player", "127.0.0.1", 8001), timeout=1.0)


async def test_files_that_have_changed_are_shown_from_the_next_connection_on(tmp_path: Path) -> None:
    """A client that runs for longer than its certificate is good."""
    authority, other = Authority(), Authority()
    ca, mine = authority.write(tmp_path), authority.pair("game.example").write(tmp_path, "mine")
    tls = TLS(ca, mine.cert, mine.key)
    async with (
        serving_tls(tmp_path, authority.pair(*LOCAL), clients=authority) as address,
        Proxy(address) as way,
        registry_client.connect(way.address, tls=tls, timeout=20.0, cache_dir=None) as registry,
        registry.register(Instance("player", "127.0.0.1", 8001)) as registration,
    ):
        # Both sides go over to another authority; then the connections break.
        ca.write_bytes(other.pem)
        (tmp_path / "clients.pem").write_bytes(other.pem)
        other.pair("game.example").write(tmp_path, "mine")
        other.pair(*LOCAL).write(tmp_path)
        await way.cut()
        await way.restore()
        assert len(await registry.list("player")) == 1
        await eventually_async(lambda: registration.invisible_for is None)


async def test_a_channel_by_url(tmp_path: Path) -> None:
    authority = Authority()
    ca, mine = authority.write(tmp_path), authority.pair("game.example").write(tmp_path, "mine")
    async with serving_tls(tmp_path, authority.pair(*LOCAL), clients=authority) as address:
        with counting() as backend:
            async with (
                registry_client.connect(address, tls=TLS(ca, mine.cert, mine.key)) as registry,
                registry.register(Instance("player", "127.0.0.1", backend.port)),
            ):
                url = f"registrys://{address}/player?ca={ca}&cert={mine.cert}&key={mine.key}&policy=round_robin"
                async with registry_client.aio.channel(url, cache_dir=None) as channel:
                    await channel.unary_unary("/test.Counting/Echo")(b"x", timeout=10)
                await asyncio.to_thread(call_by_threads, url)
                plain = url.replace("registrys:", "registry:").partition("?")[0]
                async with registry_client.aio.channel(plain, cache_dir=None) as channel:
                    with pytest.raises(grpc.aio.AioRpcError, match="speaks TLS: connect with credentials"):
                        await channel.unary_unary("/test.Counting/Echo")(b"x", timeout=10)


def call_by_threads(url: str) -> None:
    with registry_client.channel(url, cache_dir=None) as channel:
        channel.unary_unary("/test.Counting/Echo")(b"x", timeout=10)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("registry://h/player?ca=/x.pem", "ca: must be of a registrys:// URL"),
        ("registrys://h/player?ca=/nowhere/x.pem", "tls.ca: /nowhere/x.pem: No such file"),
        ("registrys://h/player?cert=/nowhere/x.pem", "tls.key: must be there with tls.cert"),
        ("registryss://h/player", "must begin with registry://"),
    ],
)
def test_urls_with_a_mistake(url: str, told: str) -> None:
    with pytest.raises(registry_client.InvalidTarget, match=re.escape(told)):
        registry_client.channel(url)


@pytest.mark.parametrize("name", ["registry_tls", "registry_credentials"])
def test_whom_to_trust_is_said_once(name: str) -> None:
    """Of two, nobody would know which one holds."""
    given = TLS() if name == "registry_tls" else grpc.ssl_channel_credentials()
    with pytest.raises(registry_client.InvalidTarget, match=f"ca: must not be there beside {name}"):
        registry_client.channel("registrys://h/player?ca=/x.pem", **{name: given})
    with registry_client.channel("registrys://h/player", **{name: given}):
        pass


async def test_looking_whether_tls_is_spoken_alarms_no_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority()
    async with serving_tls(tmp_path, authority.pair(*LOCAL)) as over_tls, serve(Config("127.0.0.1:0")) as plain:
        caplog.clear()
        assert await speaks_tls(over_tls) is True
        assert not await speaks_tls(plain)
        assert await trouble_with_any(TLS(authority.pem), over_tls) == ""
        assert "speaks no TLS" in await trouble_with_any(TLS(authority.pem), plain)
        async with registry_client.connect(over_tls, tls=TLS(authority.pem)) as registry:
            assert await registry.services() == []
        async with registry_client.connect(plain) as registry:
            assert await registry.services() == []
    assert caplog.messages == []
