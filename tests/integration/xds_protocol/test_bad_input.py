"""What no client should send: it harms nobody else, costs the server little, and fills no log."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psutil
import pytest

from tests.support.ads import ADS, BOTH, DELTA, SOTW, STREAMS, AdsStream, World, ports_of
from tests.support.http2 import Http2, framed
from tests.support.servers import RegistryServer
from tests.support.xds_messages import C_CORE, CDS, EDS, ENVOY, LDS, Node, Status, node

MEBIBYTE = 1 << 20
MAX_LOG_BYTES = 20_000
REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,  # what grpc itself says of a request it cannot read
)
pytestmark = pytest.mark.parametrize("protocol", BOTH)


@contextlib.asynccontextmanager
async def others_unharmed(world: World, server: RegistryServer, protocol: str) -> AsyncIterator[None]:
    """Beside whatever goes on, a stream of another client is told a change; the server logs little and stays small."""
    names = await world.service(8001)
    process = psutil.Process(server.pid)
    before, log_before = process.memory_info().rss, len(server.log_text)
    async with world.open(protocol) as witness:
        await witness.get(EDS, names.eds)
        yield
        began = time.monotonic()
        await world.put(names.lds, 8002)
        assert ports_of((await witness.take(EDS)).resources[names.eds]) == {8001, 8002}
        assert time.monotonic() - began < 5
    assert process.memory_info().rss - before < 64 * MEBIBYTE
    assert len(server.log_text) - log_before < MAX_LOG_BYTES


async def said(world: World, protocol: str, *messages: bytes) -> grpc.StatusCode:
    """The status that a stream ends with after such requests."""
    method: Any = world.channel.stream_stream(f"{ADS}/{STREAMS[protocol].path}")
    call = method()
    for message in messages:
        await call.write(message)
    code: grpc.StatusCode = await call.code()
    return code


MALFORMED = {
    "no message": b"\xff\xff\xff\xff",
    "a node that is none": b"\x12\x03\xff\xff\xff\x0a\x03\xff\xff\xff",
    "a name that is no text": b"\x1a\x02\xff\xfe",
    "cut off": b"\x0a\x64short",
    "no type": b"",
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
async def test_request_that_cannot_be_read_ends_its_stream_alone(
    world: World, server: RegistryServer, protocol: str, message: bytes
) -> None:
    async with others_unharmed(world, server, protocol):
        assert await said(world, protocol, message) in REFUSALS


def strange_nodes() -> dict[str, Any]:
    """Nodes as a careless or malicious client may send them."""
    deep = node(C_CORE)
    for number in range(1000):
        deep.metadata.fields[f"key-{number}"].string_value = "x" * 100
    return {
        "empty": Node(),
        "control characters": Node(id="\n\x1b[31mred\r\nroot logged in\x00", user_agent_name="envoy\n\n"),
        "a long name": node(C_CORE, "n" * 10_000),
        "metadata": deep,
        "an agent that nobody knows": Node(id="x", user_agent_name="\U0001f600" * 50),
        "features": Node(id="x", user_agent_name="gRPC Go", client_features=["f"] * 1000),
        "an address that is none": _listening("nonsense"),
        "an address of others": _listening("0.0.0.0:99999999999999999999"),
    }


def _listening(where: str) -> Any:
    strange = node(ENVOY)
    strange.metadata.fields["registry.listen"].string_value = where
    return strange


@pytest.mark.parametrize("who", strange_nodes())
async def test_strange_node_is_served_or_refused(world: World, server: RegistryServer, protocol: str, who: str) -> None:
    names = await world.service(8001)
    async with others_unharmed(world, server, protocol):
        stream = world.open(protocol, lenient=True, quiet_s=0)
        stream.node = strange_nodes()[who]
        async with stream:
            await stream.want(EDS, names.eds)
            await stream.want(LDS)
            try:
                assert names.eds in (await stream.next(EDS)).resources
            except AssertionError:
                assert await stream.ended() in REFUSALS
    assert "root logged in\n" not in server.log_text


async def test_node_that_changes_on_a_stream_changes_nothing(
    world: World, server: RegistryServer, protocol: str
) -> None:
    names = await world.service(8001)
    async with others_unharmed(world, server, protocol), world.open(protocol) as stream:
        await stream.get(CDS, names.cds)
        await stream.send(type_url=LDS, node=node(ENVOY, "somebody else"))
        await stream.nothing_more()
        assert set(await stream.get(EDS, names.eds)) == {names.eds}


async def test_names_by_the_thousand_are_answered_or_refused(
    world: World, server: RegistryServer, protocol: str
) -> None:
    """In one request and in many: the stream that asks for more than it may is ended, and no other."""
    async with others_unharmed(world, server, protocol):
        for count, times in ((20_000, 1), (500, 40)):
            async with world.open(protocol, quiet_s=0) as stream:
                await ask_for_many(stream, count, times)


async def ask_for_many(stream: AdsStream, count: int, times: int) -> None:
    """Names that nobody has heard of, more in each request; until the server is done with them or ends the stream."""
    wanted: list[str] = []
    for turn in range(times):
        wanted += [f"nobody-{turn}-{number}" for number in range(count)]
        try:
            await stream.want(EDS, *wanted)
            await stream.take(EDS)
        except (AssertionError, grpc.aio.AioRpcError, grpc.aio.UsageError):
            assert await stream.ended() in REFUSALS
            return


async def test_types_without_number_are_let_be(world: World, server: RegistryServer, protocol: str) -> None:
    names = await world.service(8001)
    async with others_unharmed(world, server, protocol), world.open(protocol) as stream:
        for number in range(1000):
            await stream.send(type_url=f"type.googleapis.com/made.up.Type{number}" + "x" * 200)
        assert set(await stream.get(EDS, names.eds)) == {names.eds}


async def test_nonces_that_were_never_sent_are_let_be(world: World, server: RegistryServer, protocol: str) -> None:
    names = await world.service(8001)
    async with others_unharmed(world, server, protocol), world.open(protocol) as stream:
        await stream.get(EDS, names.eds)
        more = {"resource_names": [names.eds]} if protocol == SOTW else {}
        for number in range(500):
            await stream.send(type_url=EDS, response_nonce=f"made-up-{number}", **more)
        await world.put(names.lds, 8002)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002}


async def test_rejections_without_end_cost_nobody_anything(world: World, server: RegistryServer, protocol: str) -> None:
    """No client waits between them: whoever answers a rejection by sending again is asked by the thousand."""
    names = await world.service(8001)
    async with others_unharmed(world, server, protocol), world.open(protocol) as stream:
        await stream.want(EDS, names.eds)
        answer = await stream.next(EDS)
        more = {"resource_names": [names.eds]} if protocol == SOTW else {}
        for number in range(1000):
            error = Status(code=3, message=f"no {number}\n" + "x" * 1000)
            await stream.send(type_url=EDS, response_nonce=answer.nonce, error_detail=error, **more)
        await stream.nothing_more()
        await world.put(names.lds, 8002)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002}


async def test_client_that_reads_nothing_is_not_remembered_for(
    world: World, server: RegistryServer, protocol: str
) -> None:
    """It asks again and again, and takes nothing: what it is owed is one message, however often it asked."""
    names = [await world.service(8001) for _ in range(2)]
    async with others_unharmed(world, server, protocol), Http2(server.address, window=50) as client:
        stream = client.begin(f"{ADS}/{STREAMS[protocol].path}")
        for turn in range(2000):
            request = flip(protocol, names[turn % 2].eds, names[1 - turn % 2].eds)
            request.node.CopyFrom(node())
            client.say(stream, framed(request))
            if turn % 50 == 0:
                await client.flush()
        await client.flush()


def flip(protocol: str, wanted: str, dropped: str) -> Any:
    """A request for one name in place of another."""
    if protocol == DELTA:
        fields = {"resource_names_subscribe": [wanted], "resource_names_unsubscribe": [dropped]}
    else:
        fields = {"resource_names": [wanted]}
    return STREAMS[protocol].request(type_url=EDS, **fields)


async def test_client_that_reads_nothing_delays_nobody(world: World, server: RegistryServer, protocol: str) -> None:
    names = await world.service(8001)
    async with others_unharmed(world, server, protocol), Http2(server.address, window=50) as client:
        for _ in range(50):
            stream = client.begin(f"{ADS}/{STREAMS[protocol].path}")
            client.say(stream, framed(flip(protocol, names.eds, "nobody")))
        await client.flush()
        for port in range(8010, 8060):
            await world.put(names.lds, port)


async def test_streams_that_are_opened_and_left_are_forgotten(
    world: World, server: RegistryServer, protocol: str
) -> None:
    names = await world.service(8001)
    async with others_unharmed(world, server, protocol):
        for _ in range(200):
            async with world.open(protocol, quiet_s=0) as stream:
                await stream.want(EDS, names.eds)
        for _ in range(20):
            async with world.open(protocol, ENVOY, quiet_s=0) as stream:
                await stream.get(CDS)
