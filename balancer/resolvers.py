"""Where a channel's endpoints come from: the protocol of a resolver, and the resolvers the balancer has of its own.

A channel owns exactly one resolver. It runs `resolver.run(push)` as a task of its own for as long as it is in
use, takes every `Resolution` that is pushed, and cancels the task when it closes. One resolver object serves an
asyncio channel (in the channel's loop) and a channel for threads (in that channel's private loop) alike; one channel
at a time runs it.

Targets with no registry behind them:

    static://10.0.0.5:8001,10.0.0.6:8001;weight=3
        a fixed set; attributes of an endpoint: weight, priority, region, zone, sub_zone, id, version
    dns://players.example.org:8001?refresh=30 (also dns:///name:port and dns:name:port, as for any gRPC channel)
        every address of the name, looked up again every `refresh` seconds and when a connection fails
"""

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable
from urllib.parse import parse_qsl

from balancer.endpoints import Endpoint, Failed, Locality, Resolution, Resolved

Push = Callable[[Resolution], None]
AddressInfo: TypeAlias = tuple[
    socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...] | tuple[int, bytes]
]


@runtime_checkable
class Resolver(Protocol):
    """What a channel asks of the source of its endpoints.

    An optional attribute `default_policy: str` names the policy where nothing else does, in place of round_robin;
    `name: str` is what a channel is called in metrics; `left_out() -> Iterable[EndpointWhy]` tells of those that it
    keeps from the channel, and `trouble: str` why they could not be confirmed last; both may be asked in any thread.
    """

    async def run(self, push: Push) -> None:
        """Pushes every new resolution until cancelled.

        `push` does not block, must be called in the loop that runs this coroutine, and may be called with the
        same value twice. A resolver keeps trying by itself: it pushes `Failed` for an outage and goes on. Returning
        means that the last resolution is final. An exception reaches the channel as `Failed`, and the channel runs the
        resolver again, with backoff.
        """

    def resolve_now(self) -> None:
        """A hint, given in the loop of `run`, that connections fail: the resolution may be out of date. Must
        not block."""


@dataclass(frozen=True, slots=True)
class Target:
    """A channel target taken apart: `scheme://path?options`."""

    scheme: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)


def parse_target(target: str) -> Target:
    """Takes a target apart.

    Raises ValueError, naming the part, when there is no scheme, no path, or an option is repeated.
    """
    scheme, mark, rest = target.partition("://")
    if target.startswith("dns:") and (scheme != "dns" or rest.startswith("/")):
        scheme, mark, rest = "dns", ":", _as_grpc_has_it(target)
    if not mark or not scheme:
        raise ValueError(f"target {target!r}: expected scheme://…, such as static://10.0.0.5:8001 or dns://name:8001")
    path, _, query = rest.partition("?")
    if not path.strip("/"):
        raise ValueError(f"target {target!r}: nothing after {scheme}://")
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in options:
            raise ValueError(f"target {target!r}: option {key!r} is given twice")
        options[key] = value
    return Target(scheme, path.strip("/"), options)


def _as_grpc_has_it(target: str) -> str:
    """`name:port` and the options of `dns:name:port` or `dns:///name:port`; without a port it is 443."""
    path, mark, query = target.removeprefix("dns:").removeprefix("//").strip("/").partition("?")
    has_port = ":" in path.rpartition("]")[2]
    return path + ("" if has_port or not path else ":443") + mark + query


def resolver_for(target: Target) -> tuple["Resolver", Mapping[str, str]]:
    """The balancer's own resolver for a target, and the options that were not for the resolver.

    Raises ValueError for a scheme that is not `static` or `dns` and for a path that cannot be read.
    """
    if target.scheme == "static":
        return StaticResolver(parse_endpoints(target.path)), target.options
    if target.scheme == "dns":
        if "/" in target.path:
            raise ValueError(f"dns://{target.path}: a name server of its own is not supported, write dns:///name:port")
        rest = {key: value for key, value in target.options.items() if key != "refresh"}
        refresh_s = parse_seconds("refresh", target.options.get("refresh", "30"))
        return DnsResolver(target.path, refresh_s=refresh_s), rest
    raise ValueError(f"target scheme {target.scheme!r}: the balancer itself knows static:// and dns://")


def parse_seconds(name: str, text: str) -> float:
    """A positive, finite number of seconds; ValueError naming the option otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"option {name!r}: {text!r} is not a positive number of seconds")
    return value


def parse_endpoints(path: str) -> tuple[Endpoint, ...]:
    """Endpoints of `host:port;weight=3,host:port`; ValueError naming the one that cannot be read."""
    endpoints = tuple(_parse_endpoint(text.strip()) for text in path.split(",") if text.strip())
    if not endpoints:
        raise ValueError(f"no address in {path!r}")
    addresses = [endpoint.address for endpoint in endpoints]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ValueError(f"address {address!r} is given twice")
    return endpoints


def _parse_endpoint(text: str) -> Endpoint:
    address, *attributes = text.split(";")
    split_address(address)
    endpoint = Endpoint(address)
    for attribute in attributes:
        key, mark, value = attribute.partition("=")
        if not mark:
            raise ValueError(f"endpoint {text!r}: attribute {attribute!r} is not name=value")
        endpoint = _with_attribute(endpoint, text, key, value)
    return endpoint


def _with_attribute(endpoint: Endpoint, text: str, key: str, value: str) -> Endpoint:
    if key in ("weight", "priority"):
        if not value.isdecimal():
            raise ValueError(f"endpoint {text!r}: {key} {value!r} is not a whole number")
        return replace(endpoint, weight=int(value)) if key == "weight" else replace(endpoint, priority=int(value))
    if key in ("region", "zone", "sub_zone"):
        parts = {
            "region": endpoint.locality.region,
            "zone": endpoint.locality.zone,
            "sub_zone": endpoint.locality.sub_zone,
        }
        return replace(endpoint, locality=Locality(**{**parts, key: value}))
    if key == "id":
        return replace(endpoint, id=value)
    if key == "version":
        return replace(endpoint, version=value)
    raise ValueError(
        f"endpoint {text!r}: unknown attribute {key!r} (weight, priority, region, zone, sub_zone, id, version)"
    )


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; ValueError naming the address otherwise."""
    host, mark, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not mark or not bare or (":" in bare and bare == host):
        raise ValueError(f"address {address!r}: expected host:port, an IPv6 host in brackets")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"address {address!r}: port {port!r} is not in 1 to 65535")
    return bare, int(port)


class StaticResolver:
    """A fixed set of endpoints. `replace` and `push` give the channel that runs it a new one, from any thread."""

    name = "static"

    def __init__(self, endpoints: Iterable[Endpoint] = (), service_config: Mapping[str, object] | None = None) -> None:
        self._resolution: Resolution = Resolved(tuple(endpoints), service_config=service_config)
        self._wake: Callable[[], object] | None = None

    async def run(self, push: Push) -> None:
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(changed.set)
        try:
            while True:
                push(self._resolution)
                await changed.wait()
                changed.clear()
        finally:
            self._wake = None

    def resolve_now(self) -> None:
        """Nothing to look up."""

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Gives a new set of endpoints."""
        self.push(Resolved(tuple(endpoints)))

    def push(self, resolution: Resolution) -> None:
        """Gives any new resolution; of several given at once the channel may see the last alone."""
        self._resolution = resolution
        wake = self._wake
        if wake is not None:
            wake()


class DnsResolver:
    """Every address of a name, looked up again every `refresh_s` seconds, and soon after a connection failed.

    A failed look-up is pushed as `Failed` (a channel that has endpoints keeps them) and tried again with exponential
    backoff from 1 s; a hint is honoured no more than once in `min_interval_s` so that a dead fleet does not
    flood the name server.
    """

    def __init__(
        self, authority: str, *, refresh_s: float = 30.0, min_interval_s: float = 1.0, rng: random.Random | None = None
    ) -> None:
        self._host, self._port = split_address(authority)
        self.name = self._host
        self._refresh_s = refresh_s
        self._min_interval_s = min_interval_s
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, decides nothing secret
        self._hint: asyncio.Event | None = None

    async def run(self, push: Push) -> None:
        self._hint = asyncio.Event()
        failures = 0
        while True:
            resolution = await self._look_up()
            push(resolution)
            failures = failures + 1 if isinstance(resolution, Failed) else 0
            await self._rest(failures)

    def resolve_now(self) -> None:
        if self._hint is not None:
            self._hint.set()

    async def _rest(self, failures: int) -> None:
        if failures:
            await asyncio.sleep(min(self._refresh_s, 2.0 ** min(failures - 1, 7)) * self._rng.uniform(0.8, 1.2))
            return
        assert self._hint is not None  # noqa: S101 - set by run before anything rests
        await asyncio.sleep(min(self._min_interval_s, self._refresh_s))
        try:
            await asyncio.wait_for(self._hint.wait(), max(0.0, self._refresh_s - self._min_interval_s))
        except TimeoutError:
            return
        finally:
            self._hint.clear()

    async def _look_up(self) -> Resolution:
        try:
            infos = await _addresses(self._host, self._port)
        except OSError as error:
            return Failed(f"DNS resolution failed for {self._host}:{self._port}: {error.strerror or error}")
        addresses = dict.fromkeys(_format(family, sockaddr[0], self._port) for family, _, _, _, sockaddr in infos)
        return Resolved(tuple(Endpoint(address) for address in sorted(addresses)))


async def _addresses(host: str, port: int) -> Sequence[AddressInfo]:
    """As `loop.getaddrinfo`, but in a thread that nobody waits for: an executor's would hold up the end of the loop for
    as long as a name server does not answer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[AddressInfo]] = loop.create_future()

    def told(infos: Sequence[AddressInfo], error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(infos)
        else:
            answer.set_exception(error)

    def ask() -> None:
        infos: Sequence[AddressInfo] = ()
        failure: OSError | None = None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            failure = error
        except UnicodeError as error:  # no name at all
            failure = OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(told, infos, failure)

    threading.Thread(target=ask, name="balancer-dns", daemon=True).start()
    return await answer


def _format(family: int, host: object, port: int) -> str:
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
