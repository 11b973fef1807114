"""SHELL: the commands `xds bootstrap|clients`: what xDS clients start with, and which of them are there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import click

from registry_api.limits import DEFAULT_NAMESPACE
from registry_client.addresses import parse_addresses
from registry_client.cli.options import with_common
from registry_client.cli.show import complain, say_document
from registry_client.instance import Locality
from registry_client.xds.bootstrap import ANY_PORT, Node, for_envoy, for_grpc, for_tonic, listen_address

if TYPE_CHECKING:
    from registry_client.cli.options import Common


@click.group()
def xds() -> None:
    """The services for whatever speaks xDS: gRPC in any language (`xds:///SERVICE`), and Envoy."""


@xds.command()
@click.option("--envoy", is_flag=True, help="For Envoy, all of its configuration.")
@click.option("--tonic", is_flag=True, help="For Rust's tonic-xds.")
@click.option(
    "--envoy-listen", metavar="HOST:PORT", help=f"Where Envoy takes calls, in numbers; port 0 = any. [{ANY_PORT}]"
)
@click.option("--state-of-the-world", is_flag=True, help="Envoy is told of everything each time, not of differences.")
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
    node_id: str | None,
    node_cluster: str,
    region: str,
    zone: str,
    sub_zone: str,
) -> None:
    """Print what an xDS client needs to find the registry, as JSON. Nothing is asked of the registry.

    For gRPC in C++, Go, Java, Node.js, Python and the like, put it into a file and its name into GRPC_XDS_BOOTSTRAP;
    then `xds:///SERVICE` is a target like others. For Envoy: envoy -c FILE.
    """
    if envoy and tonic:
        raise click.UsageError("--envoy and --tonic are for different clients: choose one")
    if not envoy and (envoy_listen or state_of_the_world):
        raise click.UsageError("--envoy-listen and --state-of-the-world need --envoy")
    node = Node(node_id or socket.gethostname(), node_cluster, Locality(region, zone, sub_zone))
    addresses = parse_addresses(common.server)
    if (envoy or tonic) and common.namespace != DEFAULT_NAMESPACE:
        where = "the authority NAMESPACE/SERVICE" if envoy else "xds:///NAMESPACE/SERVICE"
        complain(f"this client looks up every namespace by itself: call {where}")
    if envoy:
        listen = listen_address(envoy_listen or ANY_PORT)
        say_document(for_envoy(addresses, node, listen=listen, state_of_the_world=state_of_the_world))
    elif tonic:
        say_document(for_tonic(addresses, node))
    else:
        say_document(for_grpc(addresses, node, common.namespace))
