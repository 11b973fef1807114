"""The xDS streams of a server, with the hub's timeline and sinks of the test's own."""

import asyncio

import pytest

from registry_api.registry.v1 import policies_pb2 as policies
from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.errors import RequestError, Unavailable
from registry_server.policies.book import key_of, value_of
from registry_server.records import Delta
from registry_server.xds.service import AdsStream, XdsService
from tests.support.ads_session import EDS, PYTHON, RDS, World, endpoints, read
from tests.support.core import NOBODY, Sink, Timeline, key, put, record, setting_record


class Outlet(Sink):
    """A sink that may be refused more."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[RequestError] = []

    def refuse(self, error: RequestError) -> None:
        self.refused.append(error)


class Served:
    """A service and its streams, each of whose clients takes all and accepts it."""

    def __init__(self) -> None:
        self.world = World()
        self.timeline = Timeline()
        self.service = XdsService(self.world.resources, self.timeline.hub, lambda: 0.0, lambda _: None)
        self.streams: dict[AdsStream, Outlet] = {}

    async def open(self, *names: str) -> AdsStream:
        outlet = Outlet()
        stream: AdsStream = self.service.service().methods["StreamAggregatedResources"].open(NOBODY, outlet)  # type: ignore[union-attr, assignment]
        self.streams[stream] = outlet
        await stream.received(self.request(*names))
        return stream

    def request(self, *names: str, nonce: str = "") -> ads.DiscoveryRequest:
        request = ads.DiscoveryRequest(type_url=EDS.url, resource_names=names, response_nonce=nonce)
        request.node.user_agent_name = PYTHON
        return request

    async def settle(self) -> None:
        """Let the hub do what is due, and the loop what follows."""
        for _ in range(20):
            self.timeline.settle()
            await asyncio.sleep(0)

    async def take(self, stream: AdsStream) -> list[ads.DiscoveryResponse]:
        """What a stream was told, which is accepted."""
        outlet, found = self.streams[stream], []
        while outlet.is_writing:
            outlet.is_writing = False
            (told,) = [ads.DiscoveryResponse.FromString(it) for it in outlet.take()]
            found.append(told)
            stream.free()
            await stream.received(self.request(*stream.session.flows[EDS].names, nonce=told.nonce))
        return found


async def test_what_changes_is_told_to_all_who_want_it_by_one_message() -> None:
    served = Served()
    streams = [await served.open("player") for _ in range(200)]
    other = await served.open("chat")
    for stream in (*streams, other):
        assert len(await served.take(stream)) == 1
    served.service.changed(served.world.catalog.apply(put(1, key("a"), host="10.0.0.1", port=1)))
    await served.settle()
    chunks = {id(served.streams[stream].chunks[-1]) for stream in streams}
    assert len(chunks) == 1
    for stream in streams:
        assert [endpoints(told) for told in await served.take(stream)] == [{"player": [("10.0.0.1:1", 100)]}]
    assert await served.take(other) == []


async def test_who_is_slow_is_told_the_last_of_it() -> None:
    served = Served()
    slow, quick = await served.open("player"), await served.open("player")
    await served.take(quick)
    for number in range(1, 6):
        served.service.changed(served.world.catalog.apply(put(number, key("a"), host="10.0.0.1", port=number)))
        served.timeline.advance(1.0)
        await served.settle()
        assert [endpoints(told) for told in await served.take(quick)] == [{"player": [(f"10.0.0.1:{number}", 100)]}]
    assert [endpoints(told) for told in await served.take(slow)] == [{"player": []}, {"player": [("10.0.0.1:5", 100)]}]


async def test_a_mistake_at_one_stream_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served()
    broken, sound = await served.open("player"), await served.open("player")
    for stream in (broken, sound):
        await served.take(stream)

    def raises() -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(broken.session, "next", raises)
    for number in (1, 2):
        served.service.changed(served.world.catalog.apply(put(number, key("a"), host="10.0.0.1", port=number)))
        served.timeline.advance(1.0)
        await served.settle()
        assert [endpoints(told) for told in await served.take(sound)] == [{"player": [(f"10.0.0.1:{number}", 100)]}]
    assert [type(error) for error in served.streams[broken].refused] == [Unavailable, Unavailable]


async def test_streams_that_are_over_leave_nothing_behind() -> None:
    served = Served()
    streams = [await served.open("player") for _ in range(3)]
    served.service.changed(served.world.catalog.apply(put(1, key("a"))))
    for stream in (*streams, streams[0]):
        stream.leave()
    await served.settle()
    assert list(served.service.streams()) == []
    assert served.timeline.hub.statistics().readers == 0
    assert not served.world.resources._wanted
    await streams[0].received(served.request("chat"))
    again = await served.open("player")
    assert len(await served.take(again)) == 1
    served.service.changed(served.world.catalog.apply(put(2, key("b"))))
    await served.settle()
    assert len(await served.take(again)) == 1


async def test_a_server_that_began_empty_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_server.xds.service.WARM_UP_S", 0.05)
    served = Served()
    served.world.resources.is_warming = True
    loaded = asyncio.Event()
    running = asyncio.create_task(served.service.run(loaded))
    stream = await served.open()
    request = served.request("player")
    request.version_info = "0123456789abcdef"
    await stream.received(request)
    loaded.set()
    assert not served.streams[stream].is_writing
    await running
    assert [endpoints(told) for told in await served.take(stream)] == [{"player": []}]


async def test_who_asked_before_anybody_was_there_is_led_by_the_shares_of_all_who_came() -> None:
    served = Served()
    parts = [policies.Part(version="1", weight=90), policies.Part(version="2", weight=10)]
    policy = policies.Policy(namespace="default", service="player", split=parts)
    catalog = served.world.catalog
    catalog.apply(Delta(1, puts=(setting_record(key_of("default", "player"), 1, value_of(policy)),)))
    stream = await served.open()
    request = served.request("player")
    request.type_url = RDS.url
    await stream.received(request)
    outlet = served.streams[stream]
    (before,) = outlet.take()
    outlet.is_writing = False
    stream.free()
    request.response_nonce = ads.DiscoveryResponse.FromString(before).nonce
    await stream.received(request)
    came = tuple(record(key(version), 2, version=version) for version in ("1", "2"))
    served.service.changed(catalog.apply(Delta(2, puts=came)))
    served.timeline.advance(1.0)
    await served.settle()
    (after,) = outlet.take()
    (routes,) = read(ads.DiscoveryResponse.FromString(after))
    shares = routes.virtual_hosts[0].routes[0].route.weighted_clusters.clusters
    assert {it.name: it.weight.value for it in shares} == {"player#version=1": 90, "player#version=2": 10}


async def test_who_rejects_is_said_once_in_a_while_and_in_no_words_that_write_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = Served()
    stream = await served.open("player")
    request = served.request("player", nonce=stream.session.flows[EDS].nonce)
    request.error_detail.message = "too green\nand worse"
    for _ in range(1_000):
        await stream.received(request)
    (record,) = caplog.records
    assert "too green\\nand worse" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(("limit", "most"), [("MAX_SPOTS", 2), ("MAX_BYTES", 110)])
async def test_endpoints_beyond_what_can_be_told_are_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: str, most: int
) -> None:
    """Because there are too many of them, or because the places that they are in take too much."""
    monkeypatch.setattr(f"registry_server.xds.endpoints.{limit}", most)
    served = Served()
    stream = await served.open("player")
    await served.take(stream)
    for number in range(1, 6):
        served.service.changed(served.world.catalog.apply(put(number, key(f"{number}"), weight=number)))
        served.timeline.advance(1.0)
        await served.settle()
        for told in await served.take(stream):
            assert len(endpoints(told)["player"]) == min(2, number)
    (record,) = caplog.records
    assert record.getMessage().startswith("player: ")
