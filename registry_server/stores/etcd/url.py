"""The URL of an etcd cluster: `etcd://[USER:PASSWORD@]HOST[:PORT],…[?NAME=VALUE&…]`."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from registry_server.stores.urls import TLS, Login, bad, split

SCHEME = "etcd://"
DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/grpc-registry"

# The same as a table of TOML.
TEMPLATE = """\
# Where etcd is; the port is 2379 if it is left out.
endpoints = ["127.0.0.1:2379"]
# Where the keys of this registry begin. Registries of different prefixes on one etcd know nothing of each other.
# prefix = "/grpc-registry"
# A user of etcd. The password may be file:PATH or env:NAME; a password_file is read again at each login.
# user = "registry"
# password = "env:ETCD_PASSWORD"
# password_file = "/run/secrets/etcd-password"
# TLS by the authorities that the system trusts, or by those in a file; and this server's own certificate.
# tls = true
# ca = "/etc/ssl/etcd/ca.pem"
# cert = "/etc/ssl/etcd/client.pem"
# key = "/etc/ssl/etcd/client-key.pem"
# What speaks to etcd: http2 (the package ngh2), or grpc. Left out, the first that there is.
# client = "http2"
"""

_PARAMETERS = ("ca", "cert", "key", "user", "password", "password_file", "prefix", "tls", "client")


class Client(StrEnum):
    """What speaks to etcd: asyncio and libnghttp2 (the package ngh2), or grpcio. Left out, the first there is."""

    HTTP2 = "http2"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class EtcdURL:
    """Where an etcd cluster is and how to speak to it. `endpoints` are `host:port`, ready for gRPC."""

    endpoints: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    login: Login | None = None
    tls: TLS | None = None
    client: Client | None = None

    @property
    def has_password(self) -> bool:
        """Whether the URL itself has a password in it, for everybody who sees the URL."""
        return self.login is not None and self.login.password is not None

    @classmethod
    def parse(cls, url: str) -> "EtcdURL":
        """Read `url`. Raises BadStoreURL naming the part that is wrong; its text quotes nothing of the URL."""
        parts = split(url, SCHEME, _PARAMETERS)
        if parts.path:
            raise bad("a path has no meaning; to set the prefix of the keys use ?prefix=/…")
        return cls(
            endpoints=parts.endpoints(DEFAULT_PORT),
            prefix=_prefix(parts.parameters.get("prefix", DEFAULT_PREFIX)),
            login=parts.login(),
            tls=parts.tls(),
            client=_client(parts.parameters.get("client")),
        )


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if not prefix.startswith("/") or "\0" in prefix:
        raise bad("prefix must start with '/' and name something")
    return prefix


def _client(asked: str | None) -> Client | None:
    if asked is None:
        return None
    if asked not in list(Client):
        raise bad("client is neither http2 nor grpc")
    if asked == Client.HTTP2 and find_spec("ngh2") is None:
        raise bad("client=http2 needs the package ngh2, which is not installed")
    return Client(asked)
