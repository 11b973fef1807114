"""SHELL: the commands `xds bootstrap|clients|loads`: what xDS clients start with, who is there, what they report."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_api.limits import DEFAULT_NAMESPACE
from registry_api.registry.v1 import xds_pb2 as pb
from registry_client import checks
from registry_client.addresses import parse_addresses
from registry_client.cli.options import with_all_namespaces, with_common
from registry_client.cli.show import as_dict, complain, say_document, say_table
from registry_client.cli.table import Column
from registry_client.instance import Locality
from registry_client.xds.bootstrap import ANY_PORT, Files, Node, for_envoy, for_grpc, for_tonic, listen_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    from registry_client.cli.options import Common

_WANTED = (*map(Column, ("NODE", "KIND", "PEER", "TYPE")), Column("NAMES", cut=2), *map(Column, ("SENT", "ACCEPTED")))
_CLIENTS = (*_WANTED, Column("REJECTED", cut=1))
_MORE = tuple(map(Column, ("CLUSTER", "LOCALITY", "AGENT", "IDENTITY", "PROTOCOL", "SINCE")))
_LOADS = (
    "NAMESPACE",
    "SERVICE",
    "CALLS",
    "SUCCESSES",
    "ERRORS",
    "DROPPED",
    "IN-PROGRESS",
    "RATE",
    "CLIENTS",
    "REPORTED",
)
_SHORT_VERSION = 8


@click.group()
def xds() -> None:
    """The services for whatever speaks xDS: gRPC in any language (`xds:///SERVICE`), and Envoy.

    \b
    registryctl xds clients
    """


@xds.command()
@click.option("--envoy", is_flag=True, help="For Envoy, all of its configuration.")
@click.option("--tonic", is_flag=True, help="For Rust's tonic-xds.")
@click.option(
    "--envoy-listen", metavar="HOST:PORT", help=f"Where Envoy takes calls, in numbers; port 0 = any. [{ANY_PORT}]"
)
@click.option("--state-of-the-world", is_flag=True, help="Envoy is told of everything each time, not of differences.")
@click.option("--envoy-load-reports", is_flag=True, help="Envoy reports its calls: see `xds loads`.")
@click.option("--node-id", metavar="ID", help="Who asks, as `xds clients` shows it. [the host's name]")
@click.option("--node-cluster", default="default", show_default=True, metavar="NAME", help="Of which group it is.")
@click.option("--region", default="", help="Where it runs, for services that prefer instances nearby.")
@click.option("--zone", default="")
@click.option("--sub-zone", default="")
@with_common
def bootstrap(
    common: Common,
    envoy: bool,
    tonic: bool,
    envoy_listen: str | None,
    state_of_the_world: bool,
    envoy_load_reports: bool,
    node_id: str | None,
    node_cluster: str,
    region: str,
    zone: str,
    sub_zone: str,
) -> None:
    """Print what an xDS client needs to find the registry, as JSON. Nothing is asked of the registry.

    \b
    registryctl xds bootstrap >bootstrap.json
    registryctl xds bootstrap --envoy --envoy-listen 127.0.0.1:10000 >envoy.json

    For gRPC in C++, Go, Java, Node.js, Python and the like, put it into a file and its name into GRPC_XDS_BOOTSTRAP;
    then `xds:///SERVICE` is a target like others. For Envoy: envoy -c FILE.
    """
    if envoy and tonic:
        raise click.UsageError("--envoy and --tonic are for different clients: choose one")
    if not envoy and (envoy_listen or state_of_the_world or envoy_load_reports):
        raise click.UsageError("--envoy-listen, --envoy-load-reports and --state-of-the-world need --envoy")
    named = {"--node-id": node_id or socket.gethostname(), "--node-cluster": node_cluster or "default"}
    named |= {"--region": region, "--zone": zone, "--sub-zone": sub_zone}
    name, cluster, *place = (checks.text(option, given) for option, given in named.items())
    node = Node(name, cluster, Locality(*place))
    addresses = parse_addresses(common.server)
    if (envoy or tonic) and common.namespace != DEFAULT_NAMESPACE:
        where = "the authority NAMESPACE/SERVICE" if envoy else "xds:///NAMESPACE/SERVICE"
        complain(f"this client looks up every namespace by itself: call {where}")
    tls = _files(common)
    if envoy:
        listen = listen_address(envoy_listen or ANY_PORT)
        how = {"state_of_the_world": state_of_the_world, "load_reports": envoy_load_reports}
        say_document(for_envoy(addresses, node, listen=listen, tls=tls, **how))
    elif tonic:
        say_document(for_tonic(addresses, node, tls))
    else:
        say_document(for_grpc(addresses, node, checks.name("--namespace", common.namespace), tls))


def _files(common: Common) -> Files | None:
    """What is given for TLS, by paths that hold wherever the client runs."""
    if common.token:
        complain("a bootstrap carries no token: xDS clients show who they are by --tls-cert")
    given = (common.tls_ca, common.tls_cert, common.tls_key)
    if not (common.tls or any(given)):
        return None
    if bool(common.tls_cert) != bool(common.tls_key):
        raise click.UsageError("--tls-cert and --tls-key go together")
    return Files(*(str(Path(it).absolute()) if it else "" for it in given))


@xds.command()
@click.argument("node", default="")
@with_common
def clients(common: Common, node: str) -> None:
    """Who is connected by xDS, or what NODE is: what it wants, was sent and accepted, and what it rejected last.

    \b
    registryctl xds clients
    registryctl xds clients game-1 -o wide

    A line for each type of resource on each stream; gRPC opens a stream for each target. The registry that answers
    tells of its own clients. SENT and ACCEPTED are the versions of what the client has: `=` is the one that was sent.
    """

    async def ask() -> Sequence[pb.XdsClient]:
        async with common.connect() as registry:
            return await registry.xds_clients.list()

    found = [it for it in common.ask(ask()) if node in ("", it.node_id)]
    if common.as_json:
        say_document({"clients": [as_dict(it) for it in found]})
        return
    rows = [row for it in found for row in _rows(it, wide=common.wide)]
    say_table((*_CLIENTS, *_MORE) if common.wide else _CLIENTS, rows, wide=common.wide)
    if not found:
        complain(f"no {node or 'xDS client'} is connected to the registry that answers")
    for it in found:
        if it.stream_count > len(it.streams):
            complain(f"{it.node_id} has {it.stream_count} streams, of which {len(it.streams)} are shown")


def _time(stamp: Timestamp) -> str:
    try:
        return f"{stamp.ToDatetime():%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError):  # whoever answers may say anything
        return "?"


def _rows(it: pb.XdsClient, *, wide: bool) -> Iterator[tuple[str, ...]]:
    where = "/".join(filter(None, (it.locality.region, it.locality.zone, it.locality.sub_zone)))
    agent = f"{it.user_agent} {it.user_agent_version}".strip()
    for stream in it.streams:
        protocol = "incremental" if stream.incremental else "state of the world"
        more = (it.node_cluster, where, agent, it.identity, protocol, _time(stream.opened_at))
        for wanted in stream.subscriptions or (pb.XdsSubscription(),):
            named = (it.node_id, it.kind, stream.peer, _type(wanted.type))
            yield (*named, *_state(wanted, wide=wide), *(more if wide else ()))


def _type(number: int) -> str:
    """What is asked for; a number where a newer registry knows more of these."""
    kind = pb.XdsSubscription.Type.DESCRIPTOR.values_by_number.get(number)
    return (kind.name if kind else str(number)) if number else "nothing yet"


def _state(wanted: pb.XdsSubscription, *, wide: bool) -> tuple[str, str, str, str]:
    names = (["*"] if wanted.wildcard else []) + list(wanted.names)
    left = wanted.name_count - len(wanted.names)
    shown = ",".join(names) + (f" and {left} more" if left > 0 else "")
    sent, accepted, bad = wanted.sent_version, wanted.accepted_version, wanted.rejection
    cut = None if wide else _SHORT_VERSION
    reason = f"{bad.version[:cut]}: {bad.reason}" if wanted.HasField("rejection") else ""
    return shown, sent[:cut], "=" if sent and accepted == sent else accepted[:cut] or "none", reason


@xds.command()
@click.argument("service", default="")
@with_all_namespaces
@with_common
def loads(common: Common, service: str, all_namespaces: bool) -> None:
    """What xDS clients report of their calls to SERVICE, or to each: since the registry that answers has started.

    \b
    registryctl xds loads player

    IN-PROGRESS and RATE, the calls of a second, are as of the last reports.
    """

    async def ask() -> Sequence[pb.ServiceLoad]:
        async with common.connect() as registry:
            return await registry.xds_clients.loads(service, all_namespaces=all_namespaces)

    found = common.ask(ask())
    if common.as_json:
        say_document({"loads": [as_dict(it) for it in found]})
        return
    say_table(tuple(map(Column, _LOADS)), [_load(it) for it in found], wide=common.wide)
    if not found:
        complain(f"no xDS client reports calls to {service or 'a service of ' + common.where(all_namespaces)}")


def _load(it: pb.ServiceLoad) -> tuple[str, ...]:
    counted = (it.calls, it.successes, it.errors, it.dropped, it.in_progress)
    rate, when = f"{it.calls_per_second:.1f}", _time(it.reported_at)
    return it.namespace, it.service, *map(str, counted), rate, str(it.clients), when
