"""The files that a store's URL names: what is wrong with one is said with its name, and nobody is asked anything."""

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from registry_server.stores import BadStoreURL, check_url
from registry_server.stores.urls import TLS, Login


@pytest.fixture
def files(tmp_path: Path) -> Path:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    (tmp_path / "locked.pem").write_bytes(locked)
    (tmp_path / "nonsense.pem").write_text("nonsense")
    return tmp_path


def test_a_context_of_files(files: Path) -> None:
    context = TLS(files / "ca.pem", files / "cert.pem", files / "key.pem").context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert TLS().context().check_hostname


def test_an_authority_that_another_one_signed_is_enough(tmp_path: Path) -> None:
    """As for etcd's and Consul's own tools, and for who comes to this server."""
    nearest = trustme.CA().create_child_ca()
    nearest.cert_pem.write_to_path(tmp_path / "nearest.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    nearest.issue_cert("store.example").configure_cert(server)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = TLS(tmp_path / "nearest.pem").context().wrap_bio(to_client, to_server, server_hostname="store.example")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (here, there):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    here.do_handshake()  # raises SSLCertVerificationError for what it does not trust


@pytest.mark.parametrize(
    ("ca", "cert", "key", "says"),
    [
        ("none", "", "", "^ca: .*none.pem: No such file"),
        ("nonsense", "", "", "^ca: .*nonsense.pem: "),
        ("ca", "none", "key", "^cert and key: .*none.pem"),
        ("ca", "nonsense", "key", "^cert and key: .*nonsense.pem"),
        ("ca", "cert", "nonsense", "^cert and key: .*nonsense.pem"),
        ("ca", "cert", "locked", "^cert and key: .*locked.pem"),
    ],
)
def test_a_file_with_a_mistake_is_named(files: Path, ca: str, cert: str, key: str, says: str) -> None:
    tls = TLS(*(files / f"{name}.pem" if name else None for name in (ca, cert, key)))
    with pytest.raises(OSError, match=says):
        tls.context()


@pytest.mark.parametrize("host", ["a..b", ".", ".a", "a" * 64, f"a.{'b' * 64}"])
@pytest.mark.parametrize("scheme", ["etcd", "consul", "zookeeper"])
def test_a_host_that_no_name_server_knows(host: str, scheme: str) -> None:
    with pytest.raises(BadStoreURL, match="the 2nd address is not HOST"):
        check_url(f"{scheme}://{'a' * 63}.b.,{host}")


@pytest.mark.parametrize("path", ["x" * 5_000, "x/" * 3_000, "%00", "/etc/hosts/x"])
@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_a_file_that_can_have_no_such_name(path: str, name: str) -> None:
    with pytest.raises(BadStoreURL, match=f"{name}: there is no readable file"):
        check_url(f"consul://h?{name}={path}")


@pytest.mark.parametrize("written", [b"p\xc3\xa9 #\n", b"p\xc3\xa9 #\r\n", b"\xef\xbb\xbfp\xc3\xa9 #"])
def test_a_password_as_editors_write_it(written: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "password").write_bytes(written)
    assert Login("me", password_file=file).read_password() == "p\u00e9 #"
