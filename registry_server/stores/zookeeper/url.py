"""The URL of a ZooKeeper ensemble: `zookeeper://[USER:PASSWORD@]HOST[:PORT],…[/CHROOT][?NAME=VALUE&…]`."""

from collections.abc import Mapping
from dataclasses import dataclass

from registry_api.limits import DEFAULT_NAMESPACE, NAME, NAME_RULE
from registry_server.stores.urls import TLS, Login, bad, decoded, split

SCHEME = "zookeeper://"
DEFAULT_PORT = 2181
# Below the chroot: everything of the registry.
FOLDER = "grpc-registry"
# Where Curator's services are, below the chroot: what Spring Cloud takes.
DEFAULT_SERVICES = "/services"

TEMPLATE = """\
# Where ZooKeeper is; the port is 2181 if it is left out.
endpoints = ["127.0.0.1:2181"]
# The node below which everything of this registry is. Registries of different ones know nothing of each other.
# path = "/game"
# A user, by the scheme "digest". The password may be file:PATH or env:NAME; a password_file is read at each login.
# user = "registry"
# password = "env:ZOOKEEPER_PASSWORD"
# password_file = "/run/secrets/zookeeper-password"
# TLS by the authorities that the system trusts, or by those in a file; and this server's own certificate.
# tls = true
# ca = "/etc/ssl/zookeeper/ca.pem"
# cert = "/etc/ssl/zookeeper/client.pem"
# key = "/etc/ssl/zookeeper/client-key.pem"
# Whether Curator's services are shown here, and the instances of one namespace there; and below which node they are.
# catalog = true
# services = "/services"
# namespace = "default"
# What tells this registry from others there, and what the origin of Curator's instances is called here.
# registry = "grpc-registry"
# name = "zookeeper"
"""

_OF_CATALOG = ("catalog", "services", "namespace", "registry", "name")
_PARAMETERS = ("user", "password", "password_file", "tls", "ca", "cert", "key", *_OF_CATALOG)
# What ZooKeeper takes in no name of a node.
_FORBIDDEN = ((0x00, 0x1F), (0x7F, 0x9F), (0xD800, 0xF8FF), (0xFFF0, 0xFFFF))


@dataclass(frozen=True, slots=True)
class ZooKeeperURL:
    """Where an ensemble is and how to speak to it. `endpoints` are `host:port`; `chroot` is "" or begins with a `/`.

    `shows_catalog` says whether Curator's services are a neighbour. They are below `services`, where `registry` tells
    our instances from others, of which `namespace` is shown; `name` is the origin of what comes from there.
    """

    endpoints: tuple[str, ...]
    chroot: str = ""
    login: Login | None = None
    tls: TLS | None = None
    shows_catalog: bool = True
    services: str = DEFAULT_SERVICES
    namespace: str = DEFAULT_NAMESPACE
    registry: str = FOLDER
    name: str = "zookeeper"

    @property
    def has_password(self) -> bool:
        """Whether the URL itself has a password in it, for everybody who sees the URL."""
        return self.login is not None and self.login.password is not None

    @property
    def home(self) -> str:
        """The node below which everything of the registry is."""
        return f"{self.chroot}/{FOLDER}"

    @classmethod
    def parse(cls, url: str) -> "ZooKeeperURL":
        """Read `url`. Raises BadStoreURL naming the part that is wrong; its text quotes nothing of the URL."""
        parts = split(url, SCHEME, _PARAMETERS)
        login = parts.login()
        if login is not None and ":" in login.user:
            raise bad("a user of ZooKeeper has no ':' in the name")
        given, chroot = parts.parameters, _path(decoded(parts.path, "the chroot"), "the chroot")
        if given.get("catalog", "true") not in ("true", "false"):
            raise bad("catalog is neither true nor false")
        services = _path(given.get("services", DEFAULT_SERVICES).removeprefix("/"), "services")
        if not services or f"{services}/".startswith(f"/{FOLDER}/"):
            raise bad("services must be a path, and not below the registry's own")
        return cls(
            endpoints=parts.endpoints(DEFAULT_PORT),
            chroot=chroot,
            login=login,
            tls=parts.tls(),
            shows_catalog=given.get("catalog", "true") == "true",
            services=chroot + services,
            namespace=_name(given, "namespace", DEFAULT_NAMESPACE),
            registry=_name(given, "registry", FOLDER),
            name=_name(given, "name", "zookeeper"),
        )


def _name(given: Mapping[str, str], which: str, otherwise: str) -> str:
    name = given.get(which, otherwise)
    if not NAME.fullmatch(name):
        raise bad(f"{which} {NAME_RULE}")
    return name


def _path(text: str, what: str) -> str:
    names = text.rstrip("/").split("/")
    if names == [""]:
        return ""
    if any(name in ("", ".", "..") for name in names) or not all(
        _may_be_in_a_name(it) for name in names for it in name
    ):
        raise bad(f"{what} is no path of names that ZooKeeper takes")
    if names[0] == "zookeeper":
        raise bad(f"{what} is not below /zookeeper, which is ZooKeeper's own")
    return "/" + "/".join(names)


def _may_be_in_a_name(character: str) -> bool:
    return not any(first <= ord(character) <= last for first, last in _FORBIDDEN)
