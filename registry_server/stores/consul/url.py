"""The URL of Consul: `consul://HOST[:PORT],…[?NAME=VALUE&…]`, of agents that are asked in turn."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from registry_api.limits import DEFAULT_NAMESPACE, NAME
from registry_server.stores.urls import TLS, bad, readable, split

SCHEME = "consul://"
DEFAULT_PORT = 8500
DEFAULT_PREFIX = "grpc-registry"
TEMPLATE = """\
# Agents of Consul, each asked when the one before it cannot be reached; the port is 8500 if it is left out.
endpoints = ["127.0.0.1:8500"]
# An ACL token: file:PATH or env:NAME. A token_file is read again whenever Consul refuses what was in it.
# token = "env:CONSUL_HTTP_TOKEN"
# token_file = "/run/secrets/consul-token"
# TLS by the authorities that the system trusts, or by those in a file; and this server's own certificate.
# tls = true
# ca = "/etc/ssl/consul/ca.pem"
# cert = "/etc/ssl/consul/client.pem"
# key = "/etc/ssl/consul/client-key.pem"
# Another datacenter than the agent's own.
# datacenter = "dc1"
# Where the keys of this registry begin, and what tells its services from those of other registries on this Consul.
# prefix = "grpc-registry"
# Whether Consul's services are shown here, and the instances of one namespace there.
# catalog = true
# namespace = "default"
# What the origin of Consul's services is called here.
# name = "consul"
"""

_OF_CATALOG = ("catalog", "namespace", "name")
_PARAMETERS = (
    "token",
    "token_file",
    "ca",
    "cert",
    "key",
    "tls",
    "datacenter",
    "prefix",
    "catalog",
    "namespace",
    "name",
)
_PREFIX = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")
_DATACENTER = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ConsulURL:
    """Where Consul is and how to speak to it. `endpoints` are `host:port`.

    `prefix` is where the store keeps its keys, and what tells this registry from others in Consul's catalog, of which
    `namespace` shows the services; `shows_catalog` says whether any of that is wanted.
    """

    endpoints: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    tls: TLS | None = None
    datacenter: str = ""
    prefix: str = DEFAULT_PREFIX
    shows_catalog: bool = True
    namespace: str = DEFAULT_NAMESPACE
    name: str = "consul"

    @property
    def has_password(self) -> bool:
        """Whether the URL itself has a token in it, for everybody who sees the URL."""
        return self.token is not None

    @classmethod
    def parse(cls, url: str) -> "ConsulURL":
        """Read `url`. Raises BadStoreURL naming the part that is wrong; its text quotes nothing of the URL."""
        parts = split(url, SCHEME, _PARAMETERS)
        given = parts.parameters
        if parts.userinfo:
            raise bad("Consul has no users: write the token as ?token_file=FILE or ?token=…")
        if parts.path:
            raise bad("a path has no meaning; to set the prefix of the keys use ?prefix=…")
        if "token" in given and "token_file" in given:
            raise bad("token is given twice")
        if given.get("catalog", "true") not in ("true", "false"):
            raise bad("catalog is neither true nor false")
        return cls(
            endpoints=parts.endpoints(DEFAULT_PORT),
            token=_one_line(given.get("token")),
            token_file=readable("token_file", given.get("token_file")),
            tls=parts.tls(),
            datacenter=_matching(_DATACENTER, given.get("datacenter"), "datacenter is no name of one") or "",
            prefix=_matching(_PREFIX, given.get("prefix"), "prefix must be names with '/' between") or DEFAULT_PREFIX,
            shows_catalog=given.get("catalog", "true") == "true",
            namespace=_matching(NAME, given.get("namespace"), "namespace is no name of one") or DEFAULT_NAMESPACE,
            name=_matching(NAME, given.get("name"), "name is no name of a neighbour") or "consul",
        )

    def read_token(self) -> str:
        """The token as of now, empty if there is none. Raises OSError when its file cannot be read."""
        if self.token_file is None:
            return self.token or ""
        token = self.token_file.read_text(encoding="ascii", errors="replace").strip()
        if not _may_be_sent(token):
            raise OSError(f"{self.token_file}: is no token")
        return token


def _matching(pattern: re.Pattern[str], text: str | None, mistake: str) -> str | None:
    if text is not None and pattern.fullmatch(text) is None:
        raise bad(mistake)
    return text


def _one_line(token: str | None) -> str | None:
    if token is not None and not _may_be_sent(token):
        raise bad("token has a character that no token has")
    return token


def _may_be_sent(token: str) -> bool:
    """Whether a header takes it. Who is given another one to send shows it in the error."""
    return token.isascii() and token.isprintable()
