"""Targets, their options, and the resolvers they name."""

import asyncio
import socket
from typing import Any

import pytest

from balancer import Endpoint, Failed, Locality, OutlierOptions, PoolOptions, Resolution, Resolved, StaticResolver
from balancer.channels.options import ChannelOptions, from_query, hash_key, info_maker, settings_of
from balancer.resolvers import DnsResolver, Target, parse_endpoints, parse_target, resolver_for, split_address
from tests.support.waiting import eventually_async


def test_target_is_taken_apart() -> None:
    assert parse_target("static://a:1,b:2?policy=random&policy.x=1") == Target(
        "static", "a:1,b:2", {"policy": "random", "policy.x": "1"}
    )
    assert parse_target("dns:///name:80") == Target("dns", "name:80", {})


@pytest.mark.parametrize("target", ["a:1", "://a:1", "static://", "static:///", "static://a:1?x=1&x=2"])
def test_wrong_target_is_told(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        parse_target(target)


def test_endpoints_with_attributes() -> None:
    assert parse_endpoints("10.0.0.5:8001;weight=3;zone=z;region=r;id=i;version=2;priority=1, [::1]:80") == (
        Endpoint("10.0.0.5:8001", weight=3, locality=Locality("r", "z"), id="i", version="2", priority=1),
        Endpoint("[::1]:80"),
    )


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("a", "host:port"),
        ("a:0", "'0'"),
        ("a:65536", "65536"),
        ("a:x", "'x'"),
        (":80", "host:port"),
        ("::1:80", "brackets"),
        ("a:1;weight", "name=value"),
        ("a:1;weight=-1", "weight"),
        ("a:1;colour=red", "colour"),
        ("a:1,b:1,a:1", "twice"),
        (",", "no address"),
    ],
)
def test_wrong_endpoint_is_told(path: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_endpoints(path)


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("http://a:1", "'http'"),
        ("dns://a:1?refresh=0", "refresh"),
        ("dns://a:1?refresh=soon", "refresh"),
        ("dns://a", "host:port"),
        ("static://a:1?polcy=x", "polcy"),
        ("static://a:1?policy=nope", "nope"),
        ("static://a:1?policy.choices=2", "policy.choices"),
        ("static://a:1?subset_size=0", "subset_size"),
        ("static://a:1?hash_header=Player", "hash_header"),
    ],
)
def test_wrong_option_is_told(target: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        settings_of(target, None, None, None)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("dns://a:1", "a:1"),
        ("dns:///a:1", "a:1"),
        ("dns:a:1", "a:1"),
        ("dns:///a", "a:443"),
        ("dns:a?refresh=5", "a:443"),
        ("dns:///[::1]", "[::1]:443"),
        ("dns:[::1]:50051", "[::1]:50051"),
    ],
)
def test_dns_targets_as_any_grpc_channel_takes_them(target: str, path: str) -> None:
    parsed = parse_target(target)
    assert (parsed.scheme, parsed.path) == ("dns", path)
    assert dict(settings_of(target, None, None, None).child_options)["grpc.default_authority"] == path


def test_the_authority_that_is_given_wins() -> None:
    for options in (
        [("grpc.default_authority", "b")],
        [("grpc.default_authority", "b"), ("grpc.default_authority", "c")],
    ):
        assert dict(settings_of("dns://a:1", None, options, None).child_options)["grpc.default_authority"] == "b"
    named = settings_of("dns://a:1", None, [("grpc.ssl_target_name_override", "b")], None)
    assert "grpc.default_authority" not in dict(named.child_options), "TLS's name is the authority then, as for gRPC"


def test_what_is_given_in_python_wins() -> None:
    query = {"policy": "random", "hash_header": "x-a", "subset_size": "5", "health_service": "s", "authority": "h"}
    policy, options = from_query(query, "round_robin", ChannelOptions(hash_header="x-b"))
    assert policy == "round_robin"
    assert (options.hash_header, options.pool.subset_size) == ("x-b", 5)
    assert (options.health_service, options.authority) == ("s", "h")


def test_service_config_names_the_policy_unless_somebody_else_does() -> None:
    config = [("grpc.service_config", '{"loadBalancingConfig": [{"pick_first": {}}]}'), ("grpc.x", 1)]
    settings = settings_of("static://a:1", None, config, None)
    assert type(settings.policy).__name__ == "PickFirst"
    assert dict(settings.child_options) == {"grpc.x": 1, **child_options()}
    assert type(settings_of("static://a:1", "random", config, None).policy).__name__ == "RandomChoice"
    assert type(settings_of("static://a:1", None, None, None).policy).__name__ == "RoundRobin"


def test_hash_key_comes_from_the_context_or_the_metadata() -> None:
    plain = info_maker(settings_of("static://a:1", None, None, None))
    with_header = info_maker(settings_of("static://a:1?hash_header=x-player", None, None, None))
    metadata = (("other", "no"), ("x-player", "alice"))
    assert (plain("/a/b", metadata).key, with_header("/a/b", metadata).key) == (None, "alice")
    token = hash_key.set("bob")
    try:
        assert (plain("/a/b", metadata).key, with_header("/a/b", metadata).key) == ("bob", "bob")
    finally:
        hash_key.reset(token)


def test_own_policy_sees_the_call() -> None:
    class First:
        def chooser(self, nodes: Any, rng: Any) -> Any:
            return lambda info, now: nodes.usable[0]

    info = info_maker(settings_of("static://a:1", First(), None, None))("/a/b", (("x", "y"),))
    assert (info.method, info.metadata) == ("/a/b", (("x", "y"),))


async def run_until(resolver: Any, seen: list[Resolution], count: int) -> None:
    task = asyncio.create_task(resolver.run(seen.append))
    try:
        await eventually_async(lambda: len(seen) >= count)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_static_resolver_pushes_what_it_is_given() -> None:
    seen: list[Resolution] = []
    resolver = StaticResolver([Endpoint("a:1")])
    task = asyncio.create_task(resolver.run(seen.append))
    await eventually_async(lambda: len(seen) == 1)
    await asyncio.to_thread(resolver.replace, [Endpoint("b:1")])
    await eventually_async(lambda: len(seen) == 2)
    task.cancel()
    await asyncio.wait({task})
    resolver.push(Failed("gone"))
    await run_until(resolver, seen, 3)
    assert seen == [Resolved((Endpoint("a:1"),)), Resolved((Endpoint("b:1"),)), Failed("gone")]


async def test_dns_resolver_finds_addresses() -> None:
    resolver, rest = resolver_for(parse_target("dns://localhost:8001?refresh=5&policy=random"))
    assert rest == {"policy": "random"}
    seen: list[Resolution] = []
    await run_until(resolver, seen, 1)
    assert isinstance(seen[0], Resolved)
    addresses = [endpoint.address for endpoint in seen[0].endpoints]
    assert addresses
    assert {split_address(address) for address in addresses} <= {("127.0.0.1", 8001), ("::1", 8001)}


class Names(DnsResolver):
    """A name server of the test's own."""

    def __init__(self, answers: list[Any], **options: Any) -> None:
        super().__init__("name:80", **options)
        self.asked = 0
        self._answers = answers

    async def _look_up(self) -> Resolution:
        self.asked += 1
        answer = self._answers[min(self.asked, len(self._answers)) - 1]
        return answer if isinstance(answer, Failed) else Resolved(tuple(Endpoint(address) for address in answer))


async def test_dns_is_looked_up_again_by_itself_and_on_a_hint() -> None:
    seen: list[Resolution] = []
    await run_until(Names([["a:80"], ["b:80"]], refresh_s=0.05), seen, 2)
    assert seen[1] == Resolved((Endpoint("b:80"),))
    hinted = Names([["a:80"], ["b:80"]], refresh_s=1000, min_interval_s=0.01)
    again: list[Resolution] = []
    task = asyncio.create_task(hinted.run(again.append))
    await eventually_async(lambda: len(again) == 1)
    hinted.resolve_now()
    await eventually_async(lambda: len(again) == 2)
    task.cancel()
    await asyncio.wait({task})


async def test_dns_failure_is_pushed_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_such_name(*_args: Any, **_options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_such_name)
    seen: list[Resolution] = []
    await run_until(DnsResolver("name:80", refresh_s=0.05), seen, 2)
    assert seen[0] == Failed("DNS resolution failed for name:80: Name or service not known")


def test_outlier_detection_of_a_service_config_reaches_the_pool() -> None:
    config = (
        '{"loadBalancingConfig": [{"outlier_detection_experimental": {"failurePercentageEjection": {},'
        ' "childPolicy": [{"round_robin": {}}]}}]}'
    )
    options = (("grpc.service_config", config),)
    settings = settings_of("static://127.0.0.1:1", None, options, None)
    assert settings.options.pool.outlier is not None
    own = ChannelOptions(pool=PoolOptions(outlier=OutlierOptions()))
    assert settings_of("static://127.0.0.1:1", None, options, own).options.pool.outlier is own.pool.outlier


def test_a_large_fleet_is_no_large_number_of_connections() -> None:
    def size(policy: str, options: ChannelOptions | None = None) -> int | None:
        return settings_of("static://127.0.0.1:1", policy, None, options).options.pool.subset_size

    assert size("round_robin") == size("weighted_round_robin") == size("least_connections") == 128
    assert size("consistent_hash") is size("ip_hash") is size("pick_first") is None
    assert size("round_robin", ChannelOptions(pool=PoolOptions(subset_size=1000))) == 1000


def test_each_channel_has_a_part_of_the_fleet_of_its_own() -> None:
    salts = {settings_of("static://127.0.0.1:1", None, None, None).options.pool.subset_salt for _ in range(10)}
    assert len(salts) == 10


def child_options(*options: tuple[str, Any]) -> dict[str, Any]:
    return dict(settings_of("static://127.0.0.1:1", None, options, None).child_options)


def test_connections_take_no_proxy_unless_the_options_ask_for_one() -> None:
    assert child_options()["grpc.enable_http_proxy"] == 0
    assert child_options(("grpc.enable_http_proxy", 1))["grpc.enable_http_proxy"] == 1
    assert "grpc.enable_http_proxy" not in child_options(("grpc.http_proxy", "http://127.0.0.1:3128"))
    refused = child_options(("grpc.http_proxy", "http://127.0.0.1:3128"), ("grpc.enable_http_proxy", 0))
    assert refused["grpc.enable_http_proxy"] == 0


def test_a_name_is_looked_up_again_soon_unless_the_options_say_otherwise() -> None:
    option = "grpc.dns_min_time_between_resolutions_ms"
    assert child_options()[option] <= 1000
    assert child_options((option, 7000))[option] == 7000
