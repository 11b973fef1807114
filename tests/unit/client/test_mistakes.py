"""A mistake is told at once, in one line with the field and how to write it, whether a registry is there or not."""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import registry_client
from registry_client import (
    Backoff,
    Instance,
    InvalidArgument,
    InvalidTarget,
    Locality,
    RegistryClient,
    RegistryError,
    WatchLimits,
    aio,
    checks,
    sync,
)
from registry_client.instance import check_registrable
from registry_server.errors import InvalidField
from registry_server.rpc import validate

NOBODY = "127.0.0.1:1"
AT_ONCE_S = 10.0  # for a whole table of mistakes it is milliseconds; on a busy machine it may be more

# Each: the field, what of the message must be there, the mistake.
Mistake = tuple[str, str, dict[str, Any]]
OF_AN_INSTANCE: list[Mistake] = [
    ("instance.metadata", "write '100'", {"metadata": {"weight": 100}}),
    ("instance.metadata", "each key", {"metadata": {1: "one"}}),
    ("instance.metadata", "must be a dict", {"metadata": [("a", "b")]}),
    ("instance.metadata", "must be a dict", {"metadata": None}),
    ("instance.metadata", "decode", {"metadata": {"k": b"v"}}),
    ("instance.metadata", "surrogates", {"metadata": {"k": "\ud800"}}),
    ("instance.metadata", "surrogates", {"metadata": {"\udfff": "v"}}),
    ("instance.metadata", "no empty key", {"metadata": {"": "v"}}),
    ("instance.metadata", "at most 16384 bytes", {"metadata": {"k": "v" * 20_000}}),
    ("instance.metadata", "'k'", {"metadata": {"k": ["a"]}}),
    ("instance.tags", "write '5'", {"tags": [5]}),
    ("instance.tags", "write ['abc']", {"tags": "abc"}),
    ("instance.tags", "a list of strings", {"tags": None}),
    ("instance.tags", "write metadata={…}", {"tags": {"a": "b"}}),
    ("instance.status", "write 'ACTIVE'", {"status": "active"}),
    ("instance.health", "write 'HEALTHY'", {"health": "healthy"}),
    ("instance.tags", "a list of strings", {"tags": b"abc"}),
    ("instance.tags", "decode", {"tags": [b"abc"]}),
    ("instance.tags", "must be a string", {"tags": [None]}),
    ("instance.tags", "empty", {"tags": ["a", ""]}),
    ("instance.tags", "repeated", {"tags": ["a", "a"]}),
    ("instance.id", "str(…)", {"id": uuid.UUID(int=7)}),
    ("instance.id", "write '7'", {"id": 7}),
    ("instance.id", "letters, digits", {"id": "a b"}),
    ("instance.id", "must be a string, is None", {"id": None}),
    ("instance.service", "is required", {"service": ""}),
    ("instance.service", "must be a string", {"service": ["player"]}),
    ("instance.service", "letters, digits", {"service": "größe"}),
    ("instance.namespace", "letters, digits", {"namespace": "a/b"}),
    ("instance.host", "is required", {"host": ""}),
    ("instance.host", "write host='10.0.0.5', port=8001", {"host": "10.0.0.5:8001"}),
    ("instance.host", "without a scheme", {"host": "http://a"}),
    ("instance.host", "without brackets", {"host": "[::1]"}),
    ("instance.host", "decode", {"host": b"10.0.0.5"}),
    ("instance.host", "IP address", {"host": "10.0.0.555"}),
    ("instance.port", "write 8001", {"port": "8001"}),
    ("instance.port", "write 8001", {"port": 8001.0}),
    ("instance.port", "must be an int, is None", {"port": None}),
    ("instance.port", "must be an int, is True", {"port": True}),
    ("instance.port", "1 to 65535, is 0", {"port": 0}),
    ("instance.port", "cannot be shown (int)", {"port": 10**5000}),
    ("instance.service", "write str(…)", {"service": 10**5000}),
    ("instance.metadata", "cannot be shown", {"metadata": {"k": [10**5000]}}),
    ("instance.tags", "at most 16384", {"tags": itertools.repeat("a")}),
    ("instance.port", "0 to 65535, is 65536", {"port": 65536}),
    ("instance.port", "is -1", {"port": -1}),
    ("instance.weight", "0 to 1000000", {"weight": 1_000_001}),
    ("instance.weight", "must be an int", {"weight": 1.5}),
    ("instance.weight", "must be an int", {"weight": float("nan")}),
    ("instance.version", "write '2'", {"version": 2}),
    ("instance.version", "printable", {"version": "1\n2"}),
    ("instance.status", "ACTIVE, DRAINING, DOWN", {"status": "SLEEPY"}),
    ("instance.status", "ACTIVE, DRAINING, DOWN", {"status": None}),
    ("instance.health", "UNKNOWN, HEALTHY", {"health": ["HEALTHY"]}),
    ("instance.locality", "Locality(region='eu'", {"locality": {"region": "eu"}}),
    ("instance.locality", "Locality(region='eu'", {"locality": "eu"}),
    ("instance.locality.region", "write '5'", {"locality": Locality(region=5)}),  # type: ignore[arg-type]
    ("instance.locality.zone", "is None", {"locality": Locality(zone=None)}),  # type: ignore[arg-type]
    ("instance.locality.sub_zone", "printable", {"locality": Locality(sub_zone="a\tb")}),
    ("instance.generation", "must be an int", {"generation": "1"}),
    ("instance.registered_at", "datetime", {"registered_at": 5}),
    ("instance.ttl_s", "number of seconds", {"ttl_s": "15"}),
]
OF_REGISTERING: list[Mistake] = [
    ("ttl", "is inf", {"ttl": float("inf")}),
    ("ttl", "is nan", {"ttl": float("nan")}),
    ("ttl", "2 to 3600 seconds, is -1", {"ttl": -1}),
    ("ttl", "is 0", {"ttl": 0}),
    ("ttl", "is 1", {"ttl": 1}),
    ("ttl", "is inf", {"ttl": 10**400}),
    ("ttl", "number of seconds", {"ttl": True}),
    ("ttl", "write 15", {"ttl": timedelta(seconds=15)}),
    ("ttl", "write 15", {"ttl": "15"}),
    ("ttl", "number of seconds", {"ttl": [15]}),
    ("ttl", "number of seconds", {"ttl": Decimal(15)}),
    ("drain", "is inf", {"drain": float("inf")}),
    ("drain", "0 to 3600 seconds, is 3601", {"drain": 3601}),
    ("drain", "is -1", {"drain": -1}),
    ("drain", "number of seconds, is None", {"drain": None}),
    ("timeout", "is nan", {"timeout": float("nan")}),
    ("timeout", "more than 0", {"timeout": 0}),
    ("timeout", "number of seconds", {"timeout": "5"}),
    ("drain_on_signals", "True or False", {"drain_on_signals": "yes"}),
]
OF_UPDATES: list[Mistake] = [
    ("instance.metadata", "write '100'", {"metadata": {"weight": 100}}),
    ("instance.tags", "write ['abc']", {"tags": "abc"}),
    ("instance.tags", "repeated", {"tags": ["a", "a"]}),
    ("instance.weight", "write 5", {"weight": "5"}),
    ("instance.status", "ACTIVE", {"status": "active"}),
    ("instance.health", "UNKNOWN", {"health": None}),
    ("instance.version", "write '2'", {"version": 2}),
    ("update_mask", "not port", {"port": 1}),
    ("update_mask", "name one or more", {}),
    ("timeout", "is -1", {"weight": 1, "timeout": -1}),
    ("namespace", "letters", {"weight": 1, "namespace": "a b"}),
]
OF_QUESTIONS: list[Mistake] = [
    ("filter.tags", "write '5'", {"tags": [5]}),
    ("filter.tags", "a list of strings", {"tags": None}),
    ("filter.metadata", "write '1'", {"metadata": {"k": 1}}),
    ("filter.metadata", "a dict", {"metadata": "k=v"}),
    ("filter.version", "write '2'", {"version": 2}),
    ("filter.statuses", "ACTIVE", {"statuses": ["SLEEPY"]}),
    ("filter.statuses", "a list of", {"statuses": None}),
    ("filter.healths", "HEALTHY", {"healths": [1]}),
    ("filter.locality", "Locality(", {"locality": {"region": "eu"}}),
    ("filter.locality.zone", "string", {"locality": Locality(zone=b"z")}),  # type: ignore[arg-type]
    ("filter.healthy_only", "True or False", {"healthy_only": "yes"}),
    ("filter", "not healthy", {"healthy": True}),
]
OF_LISTS: list[Mistake] = [
    *OF_QUESTIONS,
    ("service", "string", {"service": 5}),
    ("service", "letters", {"service": "a b"}),
    ("page_size", "0 to 10000", {"page_size": -1}),
    ("page_size", "int", {"page_size": "5"}),
    ("min_revision", "is -1", {"min_revision": -1}),
    ("min_revision", "int", {"min_revision": 1.5}),
    ("timeout", "is nan", {"timeout": float("nan")}),
    ("namespace", "string", {"namespace": None}),
]
OF_CLIENTS: list[Mistake] = [
    ("namespace", "string", {"namespace": 5}),
    ("namespace", "letters", {"namespace": "a b"}),
    ("timeout", "is inf", {"timeout": float("inf")}),
    ("timeout", "number of seconds, is None", {"timeout": None}),
    ("credentials", "ChannelCredentials", {"credentials": "ca.pem"}),
    ("backoff", "Backoff", {"backoff": 3}),
    ("backoff", "Backoff", {"backoff": {"base_s": 1}}),
    ("cache_max_age", "write 60", {"cache_max_age": timedelta(seconds=60)}),
    ("watch_limits", "WatchLimits", {"watch_limits": 10}),
    ("cache_dir", "a path", {"cache_dir": 5}),
    ("cache_dir", "a path", {"cache_dir": b"cache"}),
]
OF_CHANNELS: list[Mistake] = [
    ("credentials", "ChannelCredentials", {"credentials": "ca.pem"}),
    ("registry_credentials", "ChannelCredentials", {"registry_credentials": True}),
    ("compression", "Compression", {"compression": "gzip"}),
    ("balancing", "ChannelOptions", {"balancing": {"subset_size": 3}}),
    ("cache_dir", "a path", {"cache_dir": 5}),
    ("options", "[('grpc.", {"options": {"grpc.keepalive_time_ms": 1}}),
    ("options", "[('grpc.", {"options": "grpc.keepalive_time_ms"}),
    ("options", "[('grpc.", {"options": [("a", 1, 2)]}),
    ("filters", "a dict", {"filters": "eu"}),
    *((field, part, {"filters": filters}) for field, part, filters in OF_QUESTIONS),
]
WRONG_SETTINGS: list[tuple[type, str, Any]] = [
    *((Backoff, name, wrong) for name in ("base_s", "cap_s", "factor", "jitter") for wrong in (None, "1", -1, True)),
    *((Backoff, name, wrong) for name in ("base_s", "cap_s", "factor", "jitter") for wrong in (float("nan"), 10**5000)),
    *((WatchLimits, name, wrong) for name in ("size", "instances", "parts") for wrong in (None, "1", 0, 1.5, 10**5000)),
]
WRONG_TARGETS = [None, 5, b"registry://h/a", ["registry://h/a"], {}, object(), "x" * 100_000, "registry://h/a\nb"]
WRONG_ADDRESSES = [None, 5, b"h:1", ["h:1", None], {"h": 1}, [], "", "2001:db8::1:2:8001", object()]


def instance(**fields: Any) -> Instance:
    return Instance(**{"service": "player", "host": "10.0.0.5", "port": 8001, **fields})


@pytest.fixture
async def registry() -> AsyncIterator[RegistryClient]:
    """A client whose registry is away."""
    async with registry_client.connect(NOBODY, cache_dir=None) as client:
        yield client


@pytest.fixture
def blocking() -> Iterator[sync.RegistryClient]:
    """The same for threads."""
    with sync.connect(NOBODY, cache_dir=None) as client:
        yield client


def check_told(error: InvalidArgument, mistake: Mistake) -> None:
    field, part, _ = mistake
    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert part in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def named(mistake: Mistake) -> str:
    return f"{mistake[0]}-{checks.shown(list(mistake[2].values())):.30}"


@pytest.mark.parametrize("mistake", OF_AN_INSTANCE, ids=named)
async def test_of_an_instance(registry: RegistryClient, mistake: Mistake) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(InvalidArgument) as caught:
            await registry.register(instance(**mistake[2]))
    check_told(caught.value, mistake)


@pytest.mark.parametrize("mistake", OF_REGISTERING, ids=named)
async def test_of_registering(registry: RegistryClient, mistake: Mistake) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(InvalidArgument) as caught:
            await registry.register(instance(), **mistake[2])
    check_told(caught.value, mistake)


@pytest.mark.parametrize(
    "wrong", [None, "player", {"service": "player"}, Instance, Locality()], ids=lambda it: type(it).__name__
)
async def test_of_what_is_no_instance(registry: RegistryClient, wrong: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        registry.register(wrong)
    check_told(caught.value, ("instance", "write Instance(service=…", {}))


@pytest.mark.parametrize("mistake", OF_UPDATES, ids=named)
async def test_of_updates(registry: RegistryClient, mistake: Mistake) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(InvalidArgument) as caught:
            await registry.update("player", "p1", **mistake[2])
    check_told(caught.value, mistake)


@pytest.mark.parametrize("mistake", OF_LISTS, ids=named)
async def test_of_lists(registry: RegistryClient, mistake: Mistake) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(InvalidArgument) as caught:
            await registry.list(**mistake[2])
    check_told(caught.value, mistake)


@pytest.mark.parametrize("mistake", OF_QUESTIONS, ids=named)
async def test_of_watches(registry: RegistryClient, mistake: Mistake) -> None:
    with pytest.raises(InvalidArgument) as caught:
        registry.watch("player", **mistake[2])
    check_told(caught.value, mistake)


@pytest.mark.parametrize("services", [(5,), ("a b",), (["a", "b"],), (None,), ("",), (b"player",)], ids=repr)
async def test_of_the_names_of_watches(registry: RegistryClient, services: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        registry.watch(*services)
    assert caught.value.field == "services"


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("key.service", (5, "p1")),
        ("key.id", ("player", uuid.UUID(int=7))),
        ("key.id", ("player", "")),
        ("key.service", ("", "p1")),
        ("key.id", ("player", None)),
    ],
)
async def test_of_names(registry: RegistryClient, field: str, arguments: tuple[Any, Any]) -> None:
    asks: list[Callable[..., Any]] = [registry.get, registry.deregister]
    for ask in asks:
        async with asyncio.timeout(AT_ONCE_S):
            with pytest.raises(InvalidArgument) as caught:
                await ask(*arguments)
        assert caught.value.field == field


@pytest.mark.parametrize("drain", [float("inf"), float("nan"), 3601, -1, None, True, timedelta(1)], ids=repr)
async def test_a_drain_that_would_be_refused_is_refused_when_it_is_given(registry: RegistryClient, drain: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await registry.deregister("player", "p1", drain=drain)
    assert caught.value.field == "drain"


@pytest.mark.parametrize("mistake", OF_CLIENTS, ids=named)
def test_of_clients(mistake: Mistake) -> None:
    connects: list[Callable[..., Any]] = [registry_client.connect, sync.connect]
    for connect in connects:
        with pytest.raises(InvalidArgument) as caught:
            connect(NOBODY, **mistake[2])
        check_told(caught.value, mistake)


@pytest.mark.parametrize(("kind", "field", "wrong"), WRONG_SETTINGS, ids=lambda it: checks.shown(it)[:30])
def test_of_settings(kind: type, field: str, wrong: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        kind(**{field: wrong})
    assert caught.value.field in {field, "base_s"}  # a cap below the base is told of either


@pytest.mark.parametrize("mistake", OF_CHANNELS, ids=named)
async def test_of_channels(mistake: Mistake) -> None:
    makes: list[Callable[..., Any]] = [registry_client.channel, aio.channel]
    for make in makes:
        with pytest.raises(InvalidArgument) as caught:
            make(f"registry://{NOBODY}/player", **mistake[2])
        check_told(caught.value, mistake)


@pytest.mark.parametrize("wrong", WRONG_TARGETS, ids=lambda wrong: f"{wrong!r:.20}")
async def test_of_targets(wrong: Any) -> None:
    makes: list[Callable[..., Any]] = [registry_client.channel, aio.channel]
    for make in makes:
        with pytest.raises(InvalidTarget) as caught:
            make(wrong)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("wrong", WRONG_ADDRESSES, ids=lambda wrong: type(wrong).__name__)
def test_of_addresses(wrong: Any) -> None:
    with pytest.raises(InvalidTarget) as caught:
        registry_client.connect(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        ["etcd://me:secret@h1:1"],
        "h1:1,etcd://me:secret@h2",
        "ETCD://me:secret@h1",
        "me:secret@h1:1",
        ["http://h1?token=secret"],
        b"etcd://me:secret@h1",
    ],
)
def test_an_address_that_is_none_is_told_without_the_password_in_it(wrong: Any) -> None:
    for connect in (registry_client.connect, sync.connect, lambda it: registry_client.connect_many({"one": it})):
        with pytest.raises(InvalidTarget) as refused:
            connect(wrong)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "etcd://me:secret@h1/player",
        "http://h1/player?token=secret",
        "registry://me:secret@h1/player",
        "registry:///me:secret@h",
    ],
)
def test_a_url_that_is_none_is_told_without_the_password_in_it(wrong: str) -> None:
    with pytest.raises(InvalidTarget) as refused:
        registry_client.channel(wrong)
    assert "secret" not in str(refused.value)


def test_threads_are_told_the_same(blocking: sync.RegistryClient) -> None:
    begun = time.monotonic()
    for mistake in OF_AN_INSTANCE:
        with pytest.raises(InvalidArgument) as caught:
            blocking.register(instance(**mistake[2])).start()
        check_told(caught.value, mistake)
    for mistake in OF_REGISTERING:
        with pytest.raises(InvalidArgument) as caught:
            blocking.register(instance(), **mistake[2])
        check_told(caught.value, mistake)
    for mistake in OF_LISTS:
        with pytest.raises(InvalidArgument) as caught:
            blocking.list(**mistake[2])
        check_told(caught.value, mistake)
    assert time.monotonic() - begun < AT_ONCE_S


def test_what_is_wrong_may_be_of_any_kind() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

        def __str__(self) -> str:
            return "a\nb" * 1_000

    for fields in ({"service": Hostile()}, {"port": Hostile()}, {"tags": [Hostile()]}, {"metadata": {"k": Hostile()}}):
        with pytest.raises(InvalidArgument) as caught:
            instance(**fields)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "fields",
    [
        {"tags": {"a"}},
        {"tags": (tag for tag in "ab")},
        {"host": "2001:db8::1:2:8001"},
        {"host": "player-1.svc.cluster.local."},
        {"metadata": {"größe": "😀"}},
        {"status": "DOWN"},
        {"port": 1},
        {"weight": 0},
        {"id": ""},
    ],
    ids="-".join,
)
def test_what_is_right_is_let_be(fields: dict[str, Any]) -> None:
    check_registrable(instance(**fields))


# ---- the client and the server agree

TEXTS = st.text(max_size=20) | st.from_regex(r"[a-zA-Z0-9._:\[\]%/-]{0,20}", fullmatch=True)
NOBODYS = ["0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1", "::ffff:0.0.0.0"]
HOSTS = (
    TEXTS
    | st.sampled_from(NOBODYS)
    | st.ip_addresses().map(str)
    | st.from_regex(r"[a-z0-9-]{1,5}(\.[a-z0-9-]{1,5}){0,3}\.?", fullmatch=True)
)


def refused_by_client(fields: dict[str, Any]) -> str:
    try:
        check_registrable(instance(**fields))
    except InvalidArgument as error:
        return error.field
    return ""


def refused_by_server(fields: dict[str, Any]) -> str:
    try:
        validate.new_instance(
            Instance(**{"service": "player", "host": "h", "port": 1, **fields}).to_proto(), lambda: "made"
        )
    except InvalidField as error:
        return error.field
    return ""


@given(
    st.fixed_dictionaries({
        "service": TEXTS,
        "host": HOSTS,
        "port": st.integers(0, 65535),
        "id": TEXTS,
        "namespace": TEXTS,
        "version": st.just("1") | TEXTS,
        "tags": st.lists(TEXTS, max_size=3),
        "metadata": st.dictionaries(TEXTS, TEXTS, max_size=2),
        "locality": st.builds(Locality, TEXTS, TEXTS, TEXTS),
    })
)  # fmt: skip
def test_the_client_refuses_what_the_server_refuses_and_nothing_else(fields: dict[str, Any]) -> None:
    for name in fields:
        assert refused_by_client({name: fields[name]}) == refused_by_server({name: fields[name]})


def test_all_are_errors_of_this_package() -> None:
    for wrong, kind in (({"port": "1"}, TypeError), ({"port": -1}, ValueError)):
        with pytest.raises(RegistryError) as caught:
            instance(**wrong)
        assert isinstance(caught.value, kind)
