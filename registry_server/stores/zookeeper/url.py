"""The URL of a ZooKeeper ensemble: `zookeeper://[USER:PASSWORD@]HOST[:PORT],…[/CHROOT][?NAME=VALUE&…]`."""

from dataclasses import dataclass

from registry_server.stores.urls import TLS, Login, bad, decoded, split

SCHEME = "zookeeper://"
DEFAULT_PORT = 2181
# Below the chroot: everything of the registry.
FOLDER = "grpc-registry"

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
"""

_PARAMETERS = ("user", "password", "password_file", "tls", "ca", "cert", "key")
# What ZooKeeper takes in no name of a node.
_FORBIDDEN = ((0x00, 0x1F), (0x7F, 0x9F), (0xD800, 0xF8FF), (0xFFF0, 0xFFFF))


@dataclass(frozen=True, slots=True)
class ZooKeeperURL:
    """Where an ensemble is and how to speak to it. `endpoints` are `host:port`; `chroot` is "" or begins with a `/`."""

    endpoints: tuple[str, ...]
    chroot: str = ""
    login: Login | None = None
    tls: TLS | None = None

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
        return cls(parts.endpoints(DEFAULT_PORT), _chroot(parts.path), login, parts.tls())


def _chroot(text: str) -> str:
    names = decoded(text, "the chroot").rstrip("/").split("/")
    if names == [""]:
        return ""
    if any(name in ("", ".", "..") for name in names) or not all(
        _may_be_in_a_name(it) for name in names for it in name
    ):
        raise bad("the chroot is no path of names that ZooKeeper takes")
    if names[0] == "zookeeper":
        raise bad("the chroot is not below /zookeeper, which is ZooKeeper's own")
    return "/" + "/".join(names)


def _may_be_in_a_name(character: str) -> bool:
    return not any(first <= ord(character) <= last for first, last in _FORBIDDEN)
