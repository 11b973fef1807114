"""The names in a certificate, read from what its authority signed; of what is none there are none."""

import random
import ssl

import pytest

from registry_server.transport.names import names_in
from tests.support.tls import Authority


@pytest.fixture(scope="module")
def certificate() -> bytes:
    pem = Authority().pair("game.example", "*.game.example", "spiffe://example/game").cert
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_names_in_their_order(certificate: bytes) -> None:
    assert names_in(certificate) == ("game.example", "*.game.example", "spiffe://example/game")


def test_many_names() -> None:
    names = tuple(f"{number}.game.example" for number in range(2_000))
    (pem,) = [Authority().pair(*names).cert]
    assert names_in(ssl.PEM_cert_to_DER_cert(pem.decode())) == names


def test_what_is_cut_off_has_none(certificate: bytes) -> None:
    assert {names_in(certificate[:end]) for end in range(len(certificate))} == {()}
    assert names_in(certificate + b"\0") == ()
    assert names_in(b"\x30\x80\0\0") == names_in(b"\x30\x85" + b"\xff" * 9) == ()


def test_what_is_broken_breaks_nothing(certificate: bytes) -> None:
    rng = random.Random(7)
    for _ in range(3_000):
        broken = bytearray(certificate)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        assert all(name.isprintable() and name.isascii() for name in names_in(bytes(broken)))
