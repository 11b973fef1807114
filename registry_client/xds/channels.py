"""SHELL: `xds:///` channels without a bootstrap file: each brings its own."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from registry_api.limits import DEFAULT_NAMESPACE
from registry_client import checks
from registry_client.addresses import parse_addresses
from registry_client.instance import Locality
from registry_client.place import check_grpc
from registry_client.tls import TLS
from registry_client.xds.bootstrap import Files, Node, for_c_core, for_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

# What makes a bootstrap one channel's own. With the environment, which is for the whole process, the first one would
# hold for all registries, until the last such channel is closed.
_BOOTSTRAP = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config"

# With any of these gRPC goes by `no_proxy`, too, which it cannot where several addresses are one server.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


@dataclass(frozen=True, slots=True)
class _Target:
    uri: str
    options: list[tuple[str, Any]]


def channel(
    service: str,
    *,
    registry: str | Sequence[str],
    namespace: str = DEFAULT_NAMESPACE,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    registry_tls: TLS | None = None,
    locality: Locality | None = None,
    node_id: str = "",
) -> grpc.Channel:
    """A `grpc.Channel` to a registered service, resolved and balanced by gRPC's own xDS client.

    registry: where it is, `HOST:PORT[,HOST:PORT…]` or a sequence of such; in numbers any of them will do, of names
    the next one is for when the one before cannot be reached.
    service: its name; `NAMESPACE/SERVICE` names another namespace, as `namespace` does.
    credentials: towards the instances; None for plaintext.
    registry_tls: TLS towards the registry, with paths of files; they are read again when they change.
    locality: where this process runs, for services that prefer instances nearby.
    node_id: who this is, for `registryctl xds clients` and in errors; by default host and process.

    Raises InvalidTarget for an address that cannot be read, InvalidArgument for another mistake.
    """
    checks.instance_of("compression", grpc.Compression, compression)
    target = _target(service, registry, namespace, credentials, options, registry_tls, locality, node_id)
    if credentials is None:
        return grpc.insecure_channel(target.uri, target.options, compression)
    return grpc.secure_channel(target.uri, credentials, target.options, compression)


def aio_channel(
    service: str,
    *,
    registry: str | Sequence[str],
    namespace: str = DEFAULT_NAMESPACE,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    registry_tls: TLS | None = None,
    locality: Locality | None = None,
    node_id: str = "",
) -> grpc.aio.Channel:
    """A `grpc.aio.Channel` to a registered service; arguments as of `registry_client.xds.channel`."""
    check_grpc()
    checks.instance_of("compression", grpc.Compression, compression)
    target = _target(service, registry, namespace, credentials, options, registry_tls, locality, node_id)
    if credentials is None:
        return grpc.aio.insecure_channel(target.uri, target.options, compression, interceptors)
    return grpc.aio.secure_channel(target.uri, credentials, target.options, compression, interceptors)


def _target(
    service: str,
    registry: str | Sequence[str],
    namespace: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]] | None,
    tls: TLS | None,
    locality: Locality | None,
    node_id: str,
) -> _Target:
    checks.instance_of("credentials", grpc.ChannelCredentials, credentials)
    given = checks.channel_options(options)
    checks.instance_of("locality", Locality, locality)
    checks.instance_of("registry_tls", TLS, tls)
    space, separator, name = checks.text("service", service).rpartition("/")
    space = checks.name("namespace", space if separator else namespace)
    name = checks.name("service", name)
    who = checks.text("node_id", node_id) or f"{socket.gethostname()}-{os.getpid()}"
    node = Node(who, locality=locality or Locality())
    make = for_grpc if any(map(os.environ.get, _PROXIES)) else for_c_core
    bootstrap = make(parse_addresses(registry), node, tls=_files(tls))
    uri = f"xds:///{name}" if space == DEFAULT_NAMESPACE else f"xds:///{space}/{name}"
    return _Target(uri, [*_direct(given).items(), (_BOOTSTRAP, json.dumps(bootstrap))])


def _direct(options: dict[str, Any]) -> dict[str, Any]:
    """Options with which no proxy of the environment is asked for the service, unless they ask for one."""
    return options if "grpc.http_proxy" in options else {"grpc.enable_http_proxy": 0, **options}


def _files(tls: TLS | None) -> Files | None:
    """As gRPC reads them by itself. Raises InvalidArgument for what is no file, or cannot be used."""
    if tls is None:
        return None
    paths = {name: getattr(tls, name) for name in ("ca", "cert", "key")}
    for name, path in paths.items():
        if isinstance(path, bytes):
            raise checks.wrong(f"registry_tls.{name}", "must be the path of a PEM file here: gRPC reads it by itself")
    tls.read()
    return Files(**{name: str(Path(path).absolute()) if path else "" for name, path in paths.items()})
