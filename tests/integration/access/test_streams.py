"""Streams live on rights: a right that is taken away ends them, one that is given shows more; the file is read again
while the server runs. All on servers as real processes, on every transport."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from registry_api.registry.v1 import access_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.xds.v1 import ads_pb2
from registry_server.access.identities import Token
from tests.conftest import ServerFactory
from tests.support.access import Asked, file_of, token
from tests.support.raw import checksum
from tests.support.servers import RegistryServer
from tests.support.transports import FLAGS
from tests.support.waiting import eventually_async

WATCH, KEEP_ALIVE = "/registry.v1.Registry/Watch", "/registry.v1.Registry/KeepAlive"
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
# The transports have no part in it.
ONCE = pytest.mark.parametrize("transport", ["http2"], indirect=True)
GRANTS = {"root": ["admin */*"], "game": ["read default/player", "register default/player"], "other": ["read */*"]}


class Stage(Asked):
    """A server whose file is written anew."""

    server: RegistryServer
    path: Path

    def grant(self, **changes: list[str] | None) -> None:
        """Write the file with these identities changed, or left out."""
        given = {name: it for name, it in {**GRANTS, **changes}.items() if it is not None}
        new = self.path.with_suffix(".new")
        new.write_text(file_of(given))
        new.replace(self.path)

    async def register(self, service: str, id_: str, port: int = 8001) -> None:
        instance = pb.Instance(service=service, id=id_, host="10.0.0.5", port=port)
        await self.ask("/registry.v1.Registry/Register", pb.RegisterRequest(instance=instance), "root")


@pytest.fixture
async def stage(transport: str, server_factory: ServerFactory, tmp_path: Path) -> AsyncIterator[Stage]:
    path = tmp_path / "access.toml"
    path.write_text(file_of(GRANTS))
    server = server_factory(args=("--access-file", str(path), *FLAGS[transport]))
    await server.start_async()
    async with grpc.aio.insecure_channel(server.address) as channel:
        made = Stage(server.address, channel)
        made.server, made.path = server, path
        yield made


async def full_set(stream: Any) -> pb.WatchResponse:
    """What a Watch begins with, in one message."""
    whole = pb.WatchResponse(more=True)
    while whole.more:
        whole.more = False
        whole.MergeFrom(pb.WatchResponse.FromString(await asyncio.wait_for(stream.read(), 20)))
    assert whole.reset
    return whole


async def seen(stream: Any) -> set[str]:
    """The services that a Watch begins with."""
    return {it.service for it in (await full_set(stream)).upserts}


async def end_of(stream: Any) -> grpc.StatusCode:
    """How a stream ends, whatever it tells before."""

    async def read_on() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(read_on(), 20)
    return error.value.code()


async def open_streams(stage: Stage, who: str) -> dict[str, Any]:
    """One of every kind."""
    talk = stage.talk(KEEP_ALIVE, who)
    await talk.write(pb.KeepAliveRequest(lease_ids=["x"]).SerializeToString())
    ads = stage.talk(ADS, who)
    cds = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    await ads.write(ads_pb2.DiscoveryRequest(type_url=cds, resource_names=["player"]).SerializeToString())
    streams = {
        "named": stage.stream(WATCH, pb.WatchRequest(services=["player"]), who),
        "namespace": stage.stream(WATCH, pb.WatchRequest(), who),
        "keep alive": talk,
        "xds": ads,
    }
    for stream in streams.values():
        assert await asyncio.wait_for(stream.read(), 20) is not grpc.aio.EOF
    return streams


async def next_change(stream: Any) -> pb.WatchResponse:
    """The next message that is no bookmark."""
    while True:
        answer = pb.WatchResponse.FromString(await asyncio.wait_for(stream.read(), 20))
        if answer.upserts or answer.removed:
            return answer


async def gather(ask: Callable[[int], Awaitable[grpc.StatusCode]], numbers: Iterable[int]) -> set[grpc.StatusCode]:
    return set(await asyncio.gather(*map(ask, numbers)))


async def ends(streams: dict[str, Any]) -> dict[str, str]:
    return {name: (await end_of(it)).name for name, it in streams.items()}


async def test_who_is_known_no_more_has_no_streams(stage: Stage) -> None:
    await stage.register("player", "one")
    streams = await open_streams(stage, "game")
    other = stage.stream(WATCH, pb.WatchRequest(), "other")
    assert await seen(other) == {"player"}
    stage.grant(game=None)
    assert await ends(streams) == dict.fromkeys(streams, "UNAUTHENTICATED")
    await stage.register("player", "two", 8002)
    assert (await next_change(other)).upserts[0].id == "two", "nobody else noticed"
    other.cancel()


async def test_a_right_that_is_taken_away_ends_what_lived_on_it(stage: Stage) -> None:
    await stage.register("player", "one")
    streams = await open_streams(stage, "game")
    stage.grant(game=["read default/player"])
    named = streams.pop("named")
    assert await ends(streams) == {
        "namespace": "UNAVAILABLE",  # ask again: what is seen may have changed
        "keep alive": "PERMISSION_DENIED",
        "xds": "UNAVAILABLE",
    }
    await stage.register("player", "two", 8002)
    assert (await next_change(named)).upserts[0].id == "two", "that right is still there"
    stage.grant(game=["register default/chat"])
    assert await end_of(named) is grpc.StatusCode.PERMISSION_DENIED
    refused = stage.stream(WATCH, pb.WatchRequest(services=["player"]), "game")
    assert await end_of(refused) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_watch_shows_what_its_reader_may_see_and_more_when_that_is_granted(stage: Stage) -> None:
    await stage.register("player", "one")
    await stage.register("chat", "one")
    watch = stage.stream(WATCH, pb.WatchRequest(), "game")
    first = await full_set(watch)
    assert [(it.service, it.id) for it in first.upserts] == [("player", "one")]
    assert first.checksum == checksum(first.upserts)
    await stage.register("chat", "two", 8002)
    await stage.register("player", "two", 8002)
    change = await next_change(watch)
    assert [(it.service, it.id) for it in change.upserts] == [("player", "two")], "the other is not told"
    assert change.checksum == checksum([*first.upserts, *change.upserts])

    stage.grant(game=["read */*"])
    assert await end_of(watch) is grpc.StatusCode.UNAVAILABLE
    again = stage.stream(WATCH, pb.WatchRequest(resume_token=change.resume_token), "game")
    answer = await full_set(again)  # the token stands for less
    assert sorted((it.service, it.id) for it in answer.upserts) == [
        (service, id_) for service in ("chat", "player") for id_ in ("one", "two")
    ]
    again.cancel()


@ONCE
async def test_a_file_that_is_wrong_changes_nothing(stage: Stage) -> None:
    watch = stage.stream(WATCH, pb.WatchRequest(services=["player"]), "game")
    await watch.read()
    for text, line in (
        ("[access", "not TOML"),
        ("[access.identities.game]\ntokens = ['rg_x']\ngrants = ['reed */*']\n", "access.identities.game.grants"),
        ("", "access: must be a table"),
    ):
        stage.path.write_text(text)
        await eventually_async(lambda line=line: line in stage.server.log_text, what=line)
    stage.path.unlink()
    await eventually_async(lambda: "No such file" in stage.server.log_text)
    await stage.register("player", "one")
    assert (await next_change(watch)).upserts[0].id == "one"
    assert stage.server.log_text.count("what is granted stays as it was") == 4
    assert "rg_x" not in stage.server.log_text
    stage.grant(game=None)
    assert await end_of(watch) is grpc.StatusCode.UNAUTHENTICATED


@ONCE
async def test_a_token_that_expires_ends_its_streams(stage: Stage) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=3)
    expiring = f'tokens = [{{ hash = "{Token.of(token("brief"))}", expires = {soon.isoformat()} }}]'
    with stage.path.open("a") as file:
        file.write(f"[access.identities.brief]\n{expiring}\ngrants = ['read */*']\n")
    await eventually_async(lambda: "read again" in stage.server.log_text)
    watch = stage.stream(WATCH, pb.WatchRequest(services=["player"]), "brief")
    assert await seen(watch) == set()
    who = access_pb2.WhoAmIResponse.FromString(
        await stage.ask("/registry.v1.Access/WhoAmI", access_pb2.WhoAmIRequest(), "brief")
    )
    assert (who.identity, list(who.grants), who.asks) == ("brief", ["read */*"], True)
    assert who.expires.seconds == int(soon.timestamp())
    assert await end_of(watch) is grpc.StatusCode.UNAUTHENTICATED


async def test_wrong_tokens_at_speed_fill_no_log_and_hold_up_nobody(stage: Stage) -> None:
    watch = stage.stream(WATCH, pb.WatchRequest(services=["player"]), "game")
    await watch.read()

    async def guess(number: int) -> grpc.StatusCode:
        try:
            await stage.ask("/registry.v1.Registry/List", pb.ListRequest(), f"guess-{number}")
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    codes = {code for start in range(0, 2_000, 200) for code in await gather(guess, range(start, start + 200))}
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    await stage.register("player", "one")
    assert (await next_change(watch)).upserts[0].id == "one"
    assert 1 <= stage.server.log_text.count("turned away") <= 3
    assert "guess" not in stage.server.log_text
    watch.cancel()
